"""The pictures of the documentation: commands run on a lab, what they print turned into SVG."""
