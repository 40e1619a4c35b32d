"""What the claim rests on: labels against scores, judges, and fine-tuning trials. Nothing here is used by a scan."""
