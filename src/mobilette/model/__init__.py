"""`Model`: what a person calls the model, as a value; read and written."""
