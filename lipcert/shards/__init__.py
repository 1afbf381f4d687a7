"""Audits of more samples than the memory holds: shard after shard, and one report of all of them."""

from lipcert.shards.audit import ShardsInterrupted, audit_in_shards
from lipcert.shards.merge import Sharded

__all__ = ["Sharded", "ShardsInterrupted", "audit_in_shards"]
