"""The tables. Each has ONE kind of process that writes it and deletes from it; everyone may read.

Times are seconds since 1970 (UTC). JSON columns hold the documents of `server.schemas` or `edge_agent.protocol`.
Telemetry has a file of its own on SQLite, so that its writes never wait for the catalogue's.
"""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Float,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    false,
    text,
    true,
)

NAMING = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "pk": "pk_%(table_name)s",
}
catalogue = MetaData(naming_convention=NAMING)
telemetry = MetaData(naming_convention=NAMING)

NAME = String(63)
SHA256 = String(64)
_UNPUBLISHED = text("published_generation < generation")

# --- written by the API
registry = Table(
    "registry",  # one row: what makes this registry itself
    catalogue,
    Column("registry_id", String(32), primary_key=True),
    Column("epoch", BigInteger, nullable=False),  # a restore from backup starts a new one
    Column("created_at", Float, nullable=False),
)
profiles = Table(
    "profiles",
    catalogue,
    Column("name", NAME, primary_key=True),
    Column("document", JSON, nullable=False),  # DeviceProfile
    Column("created_at", Float, nullable=False),
)
join_tokens = Table(
    "join_tokens",
    catalogue,
    Column("token_sha256", SHA256, primary_key=True),
    Column("token_id", String(12), nullable=False),  # shown to people; the token itself is shown once
    Column("profile", NAME),  # the profile that a device which joins with it gets, when it names none
    Column("labels", JSON, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("expires_at", Float, nullable=False),
    Column("used_at", Float),
    Column("device_id", NAME),
)
devices = Table(
    "devices",
    catalogue,
    Column("device_id", NAME, primary_key=True),
    Column("profile", NAME, nullable=False),
    Column("labels", JSON, nullable=False),  # {key: value}
    Column("key_sha256", SHA256, nullable=False),
    Column("facts", JSON, nullable=False),  # what the agent said of itself when it joined
    Column("joined_at", Float, nullable=False, index=True),
    Column("removed_at", Float, index=True),  # retired; the controller then clears its retained topics
)
jobs = Table(
    "jobs",  # what shall be done; what became of it stands in job_runs
    catalogue,
    Column("job_id", String(32), primary_key=True),
    Column("kind", String(16), nullable=False),  # server.schemas.work.JobKind
    Column("dedupe_key", SHA256, nullable=False, unique=True),  # the same work is asked for once
    Column("model", NAME, nullable=False),
    Column("version", NAME, nullable=False),
    Column("request", JSON, nullable=False),
    Column("created_at", Float, nullable=False),
)
job_cancellations = Table(
    "job_cancellations",  # jobs that shall not be done; one that has not begun is over with this row
    catalogue,
    Column("job_id", String(32), primary_key=True),
    Column("cancelled_by", Text, nullable=False),  # as the client named itself; may be empty
    Column("created_at", Float, nullable=False),
)
rollouts = Table(
    "rollouts",  # the plan, immutable; what became of it stands in rollout_states
    catalogue,
    Column("rollout_id", String(32), primary_key=True),
    Column("model", NAME, nullable=False),
    Column("version", NAME, nullable=False),
    Column("selector", String(512), nullable=False),
    Column("waves", JSON, nullable=False),  # [{"percent": 10.0} | {"count": 5}]
    Column("seed", BigInteger, nullable=False),
    Column("options", JSON, nullable=False),
    Column("created_at", Float, nullable=False),
)
rollout_commands = Table(
    "rollout_commands",  # server.schemas.rollouts.RolloutAction, in order
    catalogue,
    Column("command_id", Integer, primary_key=True, autoincrement=True),
    Column("rollout_id", String(32), nullable=False, index=True),
    Column("action", String(16), nullable=False),
    Column("wave", Integer),  # that is approved
    Column("profile", NAME),  # the lane that is meant; None: all of it
    Column("created_at", Float, nullable=False),
)

sweep_requests = Table(
    "sweep_requests",  # one row: each owner of what is swept obeys when its number has grown
    catalogue,
    Column("request_id", Integer, primary_key=True, autoincrement=True),
    Column("created_at", Float, nullable=False),
)

inquiries = Table(
    "inquiries",  # what a device is asked: for its log, or for a diagnosis; what became of it stands in inquiry_answers
    catalogue,
    Column("inquiry_id", String(32), primary_key=True),
    Column("device_id", NAME, nullable=False, index=True),
    Column("request", JSON, nullable=False),  # edge_agent.protocol.inquiry.Inquiry
    Column("created_at", Float, nullable=False, index=True),
    Column("expires_at", Float, nullable=False, index=True),
)

retired_versions = Table(
    "retired_versions",  # versions of models that are out of use: nothing new is built or rolled out of them
    catalogue,
    Column("model", NAME, primary_key=True),
    Column("version", NAME, primary_key=True),
    Column("retired_at", Float, nullable=False),
)

# --- written by the delivery
inquiry_answers = Table(
    "inquiry_answers",
    catalogue,
    Column("inquiry_id", String(32), primary_key=True),
    Column("state", String(16), nullable=False),  # asked | answered | refused
    Column("active_at", Float, nullable=False),  # when it was asked last, or something came
    Column("detail", Text, nullable=False),  # of a refusal, in the device's words
    Column("content", LargeBinary),  # a document as it travelled; edge_agent.protocol.inquiry.unpack checks it
)
inquiry_parts = Table(
    "inquiry_parts",  # of answers that are not whole yet
    catalogue,
    Column("inquiry_id", String(32), primary_key=True),
    Column("part", Integer, primary_key=True),
    Column("parts", Integer, nullable=False),
    Column("sha256", SHA256, nullable=False),  # of the whole answer
    Column("content", LargeBinary, nullable=False),
)

# --- written by the job workers
job_runs = Table(
    "job_runs",
    catalogue,
    Column("job_id", String(32), primary_key=True),
    Column("state", String(16), nullable=False),  # running | queued (given back) | done | failed | cancelled
    Column("worker", String(64), nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("lease_until", Float, nullable=False),  # a worker that dies loses the job at this time
    Column("started_at", Float, nullable=False),
    Column("finished_at", Float),
    Column("progress", JSON, nullable=False),  # {"stage": str, "done": int, "of": int}
    Column("error", JSON),  # {"code": str, "message": str}
    Column("result", JSON),
)
model_versions = Table(
    "model_versions",
    catalogue,
    Column("model", NAME, primary_key=True),
    Column("version", NAME, primary_key=True),
    Column("task", String(16), nullable=False),
    Column("metric", String(16), nullable=False),
    Column("source_sha256", SHA256, nullable=False),
    Column("source_bytes", BigInteger, nullable=False),
    Column("eval_sha256", SHA256, nullable=False),
    Column("train_sha256", SHA256),
    Column("document", JSON, nullable=False),  # server.schemas.ModelVersion
    Column("created_at", Float, nullable=False),
)
variants = Table(
    "variants",  # one row for each candidate that was built and judged for a profile
    catalogue,
    Column("model", NAME, primary_key=True),
    Column("version", NAME, primary_key=True),
    Column("profile", NAME, primary_key=True),
    Column("variant_id", NAME, primary_key=True),
    Column("recipe", NAME, nullable=False),
    Column("runtime", String(16), nullable=False),
    Column("delegate", String(16), nullable=False),
    Column("verdict", String(16), nullable=False),  # fits | unproven | misses | unmeasured
    Column("chosen", Boolean, nullable=False),
    Column("manifest_sha256", SHA256),  # object in S3; None when nothing could be packed
    Column("manifest_bytes", BigInteger),
    Column("object_sha256", SHA256),
    Column("object_bytes", BigInteger),
    Column("document", JSON, nullable=False),  # server.schemas.Variant
    Column("created_at", Float, nullable=False),
    Index("ix_variants_variant_id", "variant_id"),
)
choices = Table(
    "choices",  # what a profile gets of a model version: a variant, or a refusal that says why
    catalogue,
    Column("model", NAME, primary_key=True),
    Column("version", NAME, primary_key=True),
    Column("profile", NAME, primary_key=True),
    Column("variant_id", NAME),
    Column("reason", Text, nullable=False, default="", server_default=text("''")),  # why this variant, and not the next
    Column("refusal", JSON),  # server.schemas.Refusal
    Column("created_at", Float, nullable=False),
)
variant_reports = Table(
    "variant_reports",  # the latest of each variant, and of each second set that was sent with the wish
    catalogue,
    Column("model", NAME, primary_key=True),
    Column("version", NAME, primary_key=True),
    Column("profile", NAME, primary_key=True),
    Column("variant_id", NAME, primary_key=True),
    Column("shifted_sha256", String(64), primary_key=True),  # "": none was sent
    Column("archive_sha256", SHA256, nullable=False),  # object in S3: a zip of its files
    Column("document", JSON, nullable=False),  # server.schemas.Report
    Column("created_at", Float, nullable=False),
)

deltas = Table(
    "deltas",  # from what devices have to what they shall have; without an object where it was not worthwhile
    catalogue,
    Column("manifest_sha256", SHA256, primary_key=True),
    Column("base_manifest_sha256", SHA256, primary_key=True),
    Column("object_sha256", SHA256),
    Column("document", JSON),  # edge_agent.protocol.delta.Delta
    Column("created_at", Float, nullable=False),
)

# --- written by the ingest
device_states = Table(
    "device_states",
    catalogue,
    Column("device_id", NAME, primary_key=True),
    Column("session_id", String(32)),
    Column("session_counter", BigInteger, nullable=False, default=0),
    Column("online", Boolean, nullable=False, default=False),
    Column("last_seen_at", Float, nullable=False),
    Column("status_sequence", BigInteger, nullable=False, default=-1),
    Column("status", JSON),  # edge_agent.protocol.messages.Status, the latest
    Column("observed_epoch", BigInteger, nullable=False, default=0),
    Column("observed_generation", BigInteger, nullable=False, default=0),
    # numbers what devices say anew, over all of them: the highest tells the controller at once that there is news
    Column("news", BigInteger, nullable=False, default=0, server_default=text("0"), index=True),
)
device_figures = Table(
    "device_figures",  # what a device measured on the way in: figures of the origin `device`
    catalogue,
    Column("device_id", NAME, primary_key=True),
    Column("deployment_id", NAME, primary_key=True),
    Column("variant_id", NAME, nullable=False, index=True),
    Column("report", JSON, nullable=False),  # SelfTestReport
    Column("received_at", Float, nullable=False),
)

# --- written by the controller that holds the lease
leases = Table(
    "leases",
    catalogue,
    Column("name", String(32), primary_key=True),
    Column("holder", String(64), nullable=False),
    Column("until", Float, nullable=False),
    Column("term", BigInteger, nullable=False),  # fencing: grows with each new holder
)
rollout_states = Table(
    "rollout_states",
    catalogue,
    Column("rollout_id", String(32), primary_key=True),
    Column(
        "state", String(16), nullable=False
    ),  # preparing | staging | running | paused | finished | aborted | stopped | rolling_back | rolled_back
    Column("wave", Integer, nullable=False),  # index of the wave that is open; -1 before the first
    Column("reason", Text, nullable=False),
    Column("last_command_id", BigInteger, nullable=False),
    # lanes that measurements have stopped: [server.rollouts.facts.GateStop]; None as long as there is none
    Column("gate_stops", JSON),
    Column("unmeasured_wave", Integer, nullable=False, default=-1, server_default=text("-1")),
    Column("settled_at", Float),  # since when nobody of the open wave is on the way
    Column("approval_wave", Integer, nullable=False, default=-1, server_default=text("-1")),  # waits for an operator
    Column("approved_wave", Integer, nullable=False, default=-1, server_default=text("-1")),
    Column("activated", Boolean, nullable=False, default=False, server_default=false()),  # what is staged may answer
    Column("lanes", JSON),  # {profile: server.rollouts.facts.LaneStanding}; None as long as there is nothing to say
    Column("updated_at", Float, nullable=False),
)
deployments = Table(
    "deployments",  # one device's attempt at one variant (or its refusal)
    catalogue,
    Column("deployment_id", NAME, primary_key=True),
    Column("rollout_id", String(32), nullable=False, index=True),
    Column("device_id", NAME, nullable=False, index=True),
    Column("wave", Integer, nullable=False),
    Column("profile", NAME, nullable=False),
    Column("model", NAME, nullable=False),
    Column("version", NAME, nullable=False),
    Column("variant_id", NAME),  # None: no_variant for this profile
    Column(
        "state", String(20), nullable=False, index=True
    ),  # waiting | offered | a DeploymentState | retrying | running | rolling_back | timed_out | no_variant | cancelled
    Column("reason", String(32), nullable=False),
    Column("detail", Text, nullable=False),
    Column("previous", JSON),  # DesiredDeployment that the device ran before; a rollback restores it
    Column("offered_generation", BigInteger),  # of its desired state, when this deployment was put into it
    Column("canary", Boolean, nullable=False, default=False),  # first of its lane, and not proven yet
    Column("opened_at", Float),
    Column("running_at", Float),  # verified: right file hash, golden outputs right, inferences answered
    Column("retrying_since", Float),  # the first of the failed tries that have brought nothing onto its disk yet
    Column("attempt", Integer, nullable=False, default=0, server_default=text("0")),  # of this device in this rollout
    Column("retries", Integer, nullable=False, default=0, server_default=text("0")),  # of them with the same variant
    Column("retry_at", Float),  # it has failed, and waits until then
    Column("takes_place", Boolean, nullable=False, default=True, server_default=true()),  # among those in progress
    Column("shadow", JSON),  # edge_agent.protocol.shadow.ShadowReport, once the shadow has ended
    Column("updated_at", Float, nullable=False),
    UniqueConstraint("rollout_id", "device_id"),
)
desired = Table(
    "desired",  # the wanted state of each device: this table owns it, MQTT is the doorbell
    catalogue,
    Column("device_id", NAME, primary_key=True),
    Column("epoch", BigInteger, nullable=False),
    Column("generation", BigInteger, nullable=False),
    Column("document", JSON, nullable=False),  # edge_agent.protocol.messages.Desired
    Column("published_generation", BigInteger, nullable=False, default=-1),
    Column("updated_at", Float, nullable=False),
    # holds only what waits to be published, so that asking for that costs nothing where nothing waits
    Index(
        "ix_desired_unpublished", "updated_at", "device_id", sqlite_where=_UNPUBLISHED, postgresql_where=_UNPUBLISHED
    ),
)
decisions = Table(
    "decisions",  # each with the numbers that caused it, told in one sentence
    catalogue,
    Column("decision_id", Integer, primary_key=True, autoincrement=True),
    Column("rollout_id", String(32), nullable=False, index=True),
    Column("at", Float, nullable=False),
    Column("action", String(24), nullable=False),
    Column("sentence", Text, nullable=False),
    Column("numbers", JSON, nullable=False),
)
webhook_cursors = Table(
    "webhook_cursors",  # one row: up to which decision the operator's webhook has been told
    catalogue,
    Column("name", String(32), primary_key=True),
    Column("decision_id", Integer, nullable=False),
)
webhook_deliveries = Table(
    "webhook_deliveries",  # of the latest decisions: what became of telling them, for people
    catalogue,
    Column("decision_id", Integer, primary_key=True, autoincrement=False),
    Column("tried_at", Float, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("fate", String(16), nullable=False),  # server.webhook.rules.Fate
    Column("status", Integer),  # of the HTTP answer
    Column("failure", Text, nullable=False),
    Column("next_try_at", Float),
)

# --- written by every process of the registry, each its own row
heartbeats = Table(
    "heartbeats",
    catalogue,
    Column("process", String(16), primary_key=True),  # server.heartbeats.Process
    Column("instance", String(64), primary_key=True),
    Column("beat_at", Float, nullable=False),
)

# --- telemetry, written by the ingest; a database of its own
reports = Table(
    "reports",
    telemetry,
    Column("device_id", NAME, primary_key=True),
    Column("spool_id", String(32), primary_key=True),
    Column("sequence", BigInteger, primary_key=True),
    Column("received_at", Float, nullable=False),
    Column("window_start", Float, nullable=False),
    Column("window_s", Float, nullable=False),
    Column("profile", NAME, nullable=False),
    Column("model", NAME, nullable=False),
    Column("version", NAME, nullable=False),
    Column("variant_id", NAME, nullable=False),
    Column("deployment_id", NAME, nullable=False),
    Column("requests", BigInteger, nullable=False),
    Column("inferences", BigInteger, nullable=False),
    Column("errors", JSON, nullable=False),
    Column("error_count", BigInteger, nullable=False),
    Column("sketches", LargeBinary, nullable=False),  # zstd of {"queue": .., "preprocess": .., "invoke": ..}
    Column("rss_bytes", BigInteger, nullable=False),
    Column("temperature_c", Float),
    Column("throttled", Boolean),
    Column("dropped_reports", BigInteger, nullable=False),
    # old ones are merged: how many reports a row stands for, and of how much time (0: of one, as it came)
    Column("merged", BigInteger, nullable=False, default=1, server_default=text("1")),
    Column("span_s", Float, nullable=False, default=0.0, server_default=text("0")),
    Column("first_received_at", Float),  # of the reports that were merged; None: received_at
    Column("throttled_count", BigInteger),  # of them; None: `throttled` tells
    Index("ix_reports_variant", "model", "version", "variant_id", "profile"),
    Index("ix_reports_received_at", "received_at"),
    Index("ix_reports_deployment_id", "deployment_id"),
)
merges = Table(
    "merges",  # how far reports have been merged, for each span
    telemetry,
    Column("span_s", Float, primary_key=True),
    Column("until", Float, nullable=False),
)
