"""Two data sets beside each other, by what the model's features see in them."""
