"""routing and billing"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "billing_limits",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("subject_kind", sa.String(length=8), nullable=False),
        sa.Column("subject_id", sa.Uuid(), nullable=False),
        sa.Column("rpm", sa.BigInteger(), nullable=True),
        sa.Column("tpm", sa.BigInteger(), nullable=True),
        sa.Column("parallel", sa.BigInteger(), nullable=True),
        sa.Column("budget_nanos", sa.BigInteger(), nullable=True),
        sa.Column("budget_period", sa.String(length=8), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_billing_limits")),
        sa.UniqueConstraint(
            "subject_kind", "subject_id", name=op.f("uq_billing_limits_subject_kind_subject_id")
        ),
    )
    op.create_table(
        "billing_spent",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("subject", sa.String(length=40), nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.Column("total_nanos", sa.BigInteger(), nullable=False),
        sa.Column("month", sa.Integer(), nullable=False),
        sa.Column("month_nanos", sa.BigInteger(), nullable=False),
        sa.Column("day", sa.Integer(), nullable=False),
        sa.Column("day_nanos", sa.BigInteger(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_billing_spent")),
        sa.UniqueConstraint("subject", name=op.f("uq_billing_spent_subject")),
    )
    op.create_table(
        "routing_aliases",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("policy", sa.String(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_routing_aliases")),
        sa.UniqueConstraint("name", name=op.f("uq_routing_aliases_name")),
    )
    op.create_table(
        "routing_caches",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("credential_id", sa.Uuid(), nullable=False),
        sa.Column("ttl_s", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_routing_caches")),
        sa.UniqueConstraint("credential_id", name=op.f("uq_routing_caches_credential_id")),
    )
    op.create_table(
        "routing_responses",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("user_id", sa.Uuid(), nullable=False),
        sa.Column("previous_id", sa.Uuid(), nullable=True),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("input_sealed", sa.LargeBinary(), nullable=False),
        sa.Column("response_sealed", sa.LargeBinary(), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_routing_responses")),
    )
    with op.batch_alter_table("routing_responses", schema=None) as batch_op:
        batch_op.create_index(
            batch_op.f("ix_routing_responses_expires_at"), ["expires_at"], unique=False
        )

    op.create_table(
        "routing_workers",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("user_id", sa.Uuid(), nullable=False),
        sa.Column("is_shared", sa.Boolean(), nullable=False),
        sa.Column("endpoint", sa.String(), nullable=False),
        sa.Column("dialect", sa.String(), nullable=False),
        sa.Column("models", sa.JSON(), nullable=False),
        sa.Column("key_sealed", sa.LargeBinary(), nullable=False),
        sa.Column("queue_length", sa.Integer(), nullable=False),
        sa.Column("parallel", sa.Integer(), nullable=False),
        sa.Column("heartbeat_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_routing_workers")),
        sa.UniqueConstraint("name", name=op.f("uq_routing_workers_name")),
    )
    with op.batch_alter_table("routing_workers", schema=None) as batch_op:
        batch_op.create_index(
            batch_op.f("ix_routing_workers_heartbeat_at"), ["heartbeat_at"], unique=False
        )
        batch_op.create_index(batch_op.f("ix_routing_workers_user_id"), ["user_id"], unique=False)

    op.create_table(
        "billing_accounts",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("user_id", sa.Uuid(), nullable=False),
        sa.Column("tier", sa.String(length=16), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["user_id"],
            ["auth_users.id"],
            name=op.f("fk_billing_accounts_user_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_billing_accounts")),
        sa.UniqueConstraint("user_id", name=op.f("uq_billing_accounts_user_id")),
    )
    with op.batch_alter_table("billing_usage", schema=None) as batch_op:
        batch_op.add_column(sa.Column("audio_input_tokens", sa.BigInteger(), nullable=True))
        batch_op.add_column(sa.Column("audio_output_tokens", sa.BigInteger(), nullable=True))
        batch_op.add_column(sa.Column("cache_write_tokens", sa.BigInteger(), nullable=True))
        batch_op.add_column(
            sa.Column("is_estimated", sa.Boolean(), nullable=False, server_default=sa.false())
        )
        batch_op.add_column(
            sa.Column("is_cached", sa.Boolean(), nullable=False, server_default=sa.false())
        )
        batch_op.add_column(
            sa.Column("is_own_key", sa.Boolean(), nullable=False, server_default=sa.false())
        )
        batch_op.add_column(sa.Column("attempts", sa.Integer(), nullable=False, server_default="1"))
        batch_op.add_column(
            sa.Column("upstream_model", sa.String(), nullable=False, server_default="")
        )
        batch_op.create_index(
            "ix_billing_usage_credential_id_id", ["credential_id", "id"], unique=False
        )

    with op.batch_alter_table("routing_models", schema=None) as batch_op:
        batch_op.add_column(sa.Column("position", sa.Integer(), nullable=False, server_default="0"))
        batch_op.add_column(sa.Column("weight", sa.Integer(), nullable=False, server_default="1"))
        batch_op.add_column(sa.Column("connect_timeout_s", sa.Float(), nullable=True))
        batch_op.add_column(sa.Column("first_byte_timeout_s", sa.Float(), nullable=True))
        batch_op.add_column(sa.Column("idle_timeout_s", sa.Float(), nullable=True))
        batch_op.add_column(sa.Column("deadline_s", sa.Float(), nullable=True))
        batch_op.add_column(
            sa.Column("quality", sa.String(), nullable=False, server_default="good")
        )
        batch_op.add_column(
            sa.Column("capabilities", sa.String(), nullable=False, server_default="")
        )
        batch_op.add_column(
            sa.Column("context_tokens", sa.Integer(), nullable=False, server_default="0")
        )
        batch_op.drop_constraint(batch_op.f("uq_routing_models_name"), type_="unique")
        batch_op.create_index(
            "uq_routing_models_found",
            ["name"],
            unique=True,
            sqlite_where=sa.text("source != 'manual'"),
            postgresql_where=sa.text("source != 'manual'"),
        )
        batch_op.create_unique_constraint(
            batch_op.f("uq_routing_models_name_upstream_upstream_model"),
            ["name", "upstream", "upstream_model"],
        )

    with op.batch_alter_table("routing_prices", schema=None) as batch_op:
        batch_op.add_column(sa.Column("cache_write_micros", sa.BigInteger(), nullable=True))
        batch_op.add_column(sa.Column("reasoning_micros", sa.BigInteger(), nullable=True))
        batch_op.add_column(sa.Column("audio_input_micros", sa.BigInteger(), nullable=True))
        batch_op.add_column(sa.Column("audio_output_micros", sa.BigInteger(), nullable=True))


def downgrade() -> None:
    # One name led to one place then.
    op.execute("DELETE FROM routing_models WHERE position > 0")
    with op.batch_alter_table("routing_prices", schema=None) as batch_op:
        batch_op.drop_column("audio_output_micros")
        batch_op.drop_column("audio_input_micros")
        batch_op.drop_column("reasoning_micros")
        batch_op.drop_column("cache_write_micros")

    with op.batch_alter_table("routing_models", schema=None) as batch_op:
        batch_op.drop_constraint(
            batch_op.f("uq_routing_models_name_upstream_upstream_model"), type_="unique"
        )
        batch_op.drop_index(
            "uq_routing_models_found",
            sqlite_where=sa.text("source != 'manual'"),
            postgresql_where=sa.text("source != 'manual'"),
        )
        batch_op.create_unique_constraint(batch_op.f("uq_routing_models_name"), ["name"])
        batch_op.drop_column("context_tokens")
        batch_op.drop_column("capabilities")
        batch_op.drop_column("quality")
        batch_op.drop_column("deadline_s")
        batch_op.drop_column("idle_timeout_s")
        batch_op.drop_column("first_byte_timeout_s")
        batch_op.drop_column("connect_timeout_s")
        batch_op.drop_column("weight")
        batch_op.drop_column("position")

    with op.batch_alter_table("billing_usage", schema=None) as batch_op:
        batch_op.drop_index("ix_billing_usage_credential_id_id")
        batch_op.drop_column("upstream_model")
        batch_op.drop_column("attempts")
        batch_op.drop_column("is_own_key")
        batch_op.drop_column("is_cached")
        batch_op.drop_column("is_estimated")
        batch_op.drop_column("cache_write_tokens")
        batch_op.drop_column("audio_output_tokens")
        batch_op.drop_column("audio_input_tokens")

    op.drop_table("billing_accounts")
    with op.batch_alter_table("routing_workers", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_routing_workers_user_id"))
        batch_op.drop_index(batch_op.f("ix_routing_workers_heartbeat_at"))

    op.drop_table("routing_workers")
    with op.batch_alter_table("routing_responses", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_routing_responses_expires_at"))

    op.drop_table("routing_responses")
    op.drop_table("routing_caches")
    op.drop_table("routing_aliases")
    op.drop_table("billing_spent")
    op.drop_table("billing_limits")
