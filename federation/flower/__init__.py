"""Flower's programs as we start them: with our apps in place of any code that is sent."""
