"""The soak: mixed calls, clients that leave, errors and `kill -9`; then every row is looked at."""
