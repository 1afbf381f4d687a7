"""Audits of more samples than the memory holds: shard after shard, and one report of all of them."""

from lipcert.shards.audit import audit_in_shards
from lipcert.shards.merge import Sharded

__all__ = ["Sharded", "audit_in_shards"]
