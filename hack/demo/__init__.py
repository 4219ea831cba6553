"""`python -m hack.demo`: real Jobs split over two local clusters, shown live."""
