"""Pictures of the generator of a run: samples, interpolations, nearest training images, and videos."""
