"""Other people's networks that look at images and videos, each with a stand-in that ships."""
