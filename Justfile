# `just` lists what there is.
default:
    @just --list

# Install everything, the test services included.
setup:
    uv sync

# Start the server.
run *arguments:
    uv run python -m app {{arguments}}

# Run the tests.
test *arguments:
    uv run pytest {{arguments}}

# Run the tests that need no server and no process of their own.
unit:
    uv run pytest -m "not slow and not needs_postgres and not needs_redis and not needs_s3 and not docker"

# What CI checks beside the tests: style, types, layers, migrations on both databases, documents.
check:
    uv run ruff format --check .
    uv run ruff check .
    uv run mypy --strict -p app -p insula_jail -p ai_spine
    uv run black --check --quiet src/ai_spine
    uv run flake8 --max-line-length 100 src/ai_spine
    uv run lint-imports
    uv run python scripts/migrations.py
    uv run python scripts/documents.py

# Test the client as its contract says, and build what PyPI would get.
client:
    uv run pytest tests/client --cov=ai_spine --cov-branch --cov-fail-under=95
    uv build --out-dir dist src/ai_spine
    uv run twine check --strict dist/ai_spine_sdk-*

# Repair what can be repaired.
fix:
    uv run ruff format .
    uv run ruff check --fix .
    uv run python scripts/documents.py --write
    uv run python -m tests.route_matrix --write

# Bring the database to this version's schema.
migrate:
    uv run python -m app migrate

# Write a migration from the difference between the tables in the code and in a fresh database.
revision text:
    uv run python scripts/migrations.py --revision "{{text}}"

# Measure, and write docs/benchmarks.
bench *arguments:
    uv run python -m benchmarks {{arguments}}

# Make mixed calls, kill the server among them, and compare every usage row with the truth.
truth *arguments:
    uv run python -m benchmarks.truth {{arguments}}
