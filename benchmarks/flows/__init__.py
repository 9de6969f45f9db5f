"""What flows cost."""
