"""What tests share: tiny targets, the command line, scripted endpoints and hubs."""
