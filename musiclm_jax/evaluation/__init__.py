"""What is measured of models and of generated music, and the page that shows it."""
