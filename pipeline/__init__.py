"""Lockgate's machine: typed stages in a DAG, planned, run and recorded.

Everything public is importable from here. Names load when they are first used, so that
`python -m pipeline --help` does not pay for what it does not need.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.lazy import lazily

if TYPE_CHECKING:
    from pipeline.action import Action as Action
    from pipeline.action import ActionResult as ActionResult
    from pipeline.action import Output as Output
    from pipeline.condition import Facts as Facts
    from pipeline.condition import Only as Only
    from pipeline.dag import Pipeline as Pipeline
    from pipeline.data import Artifact as Artifact
    from pipeline.data import Blob as Blob
    from pipeline.data import Result as Result
    from pipeline.data import Tree as Tree
    from pipeline.engine import Engine as Engine
    from pipeline.errors import BrokenOff as BrokenOff
    from pipeline.errors import CommandFailed as CommandFailed
    from pipeline.errors import ConfigError as ConfigError
    from pipeline.errors import EngineError as EngineError
    from pipeline.errors import Exit as Exit
    from pipeline.errors import LockgateError as LockgateError
    from pipeline.errors import NotNow as NotNow
    from pipeline.errors import StageFailed as StageFailed
    from pipeline.errors import StageTimeout as StageTimeout
    from pipeline.errors import StoreError as StoreError
    from pipeline.errors import UndeclaredInput as UndeclaredInput
    from pipeline.errors import WiringError as WiringError
    from pipeline.fan_out import FanOut as FanOut
    from pipeline.journal import Event as Event
    from pipeline.journal import Journal as Journal
    from pipeline.project import Project as Project
    from pipeline.service import ROOT as ROOT
    from pipeline.service import Service as Service
    from pipeline.stage import Effect as Effect
    from pipeline.stage import Resources as Resources
    from pipeline.stage import Retry as Retry
    from pipeline.stage import Stage as Stage
    from pipeline.stage import Stays as Stays
    from pipeline.store import Entry as Entry
    from pipeline.store import Store as Store
    from pipeline.work import Work as Work

_HOMES = {
    "Action": "action", "ActionResult": "action", "Output": "action", "ROOT": "service", "Service": "service",
    "Facts": "condition", "Only": "condition", "Pipeline": "dag",
    "Artifact": "data", "Blob": "data", "Result": "data", "Tree": "data", "Engine": "engine",
    "BrokenOff": "errors", "CommandFailed": "errors", "ConfigError": "errors", "EngineError": "errors", "Exit": "errors",
    "LockgateError": "errors", "NotNow": "errors", "StageFailed": "errors", "StageTimeout": "errors", "StoreError": "errors",
    "UndeclaredInput": "errors", "WiringError": "errors",
    "FanOut": "fan_out",
    "Event": "journal", "Journal": "journal", "Project": "project",
    "Effect": "stage", "Resources": "stage", "Retry": "stage", "Stage": "stage", "Stays": "stage",
    "Entry": "store", "Store": "store", "Work": "work",
}  # fmt: skip

__all__ = [
    "ROOT",
    "Action",
    "ActionResult",
    "Artifact",
    "Blob",
    "BrokenOff",
    "CommandFailed",
    "ConfigError",
    "Effect",
    "Engine",
    "EngineError",
    "Entry",
    "Event",
    "Exit",
    "Facts",
    "FanOut",
    "Journal",
    "LockgateError",
    "NotNow",
    "Only",
    "Output",
    "Pipeline",
    "Project",
    "Resources",
    "Result",
    "Retry",
    "Service",
    "Stage",
    "StageFailed",
    "StageTimeout",
    "Stays",
    "Store",
    "StoreError",
    "Tree",
    "UndeclaredInput",
    "WiringError",
    "Work",
]
__version__ = "0.1.0"

if not TYPE_CHECKING:  # a checker knows the names from above, and that there are no others
    __getattr__, __dir__ = lazily(__name__, _HOMES)
