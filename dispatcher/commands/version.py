"""``version``: which release this is."""

import click

from dispatcher import __version__


@click.command()
def version() -> None:
    """Print the version."""
    click.echo(__version__)
