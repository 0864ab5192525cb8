"""The API of AWS: protocols (wire), the life of a request (app), one file per service."""
