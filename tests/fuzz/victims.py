"""Every reader of a user's files, how to damage what it reads, and what it must never accept."""

from guard import Victim
from victims_data import DATA_VICTIMS
from victims_documents import DOCUMENT_VICTIMS
from victims_shards import SHARD_VICTIMS
from victims_weights import WEIGHT_VICTIMS

_KINDS = (*DATA_VICTIMS, *WEIGHT_VICTIMS, *DOCUMENT_VICTIMS, *SHARD_VICTIMS)
VICTIMS: dict[str, Victim] = {victim.name: victim for victim in _KINDS}
