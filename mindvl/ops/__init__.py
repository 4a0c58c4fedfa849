"""Pure tensor functions, each a plain reference and its fast twin."""
