"""A run's life, from its first epoch to its test: what is written into its folder, and when.

`open_run` finds the folder that a family's parameters define. A `Run` trains once; from then on it shows what is
recorded there.
"""

import platform
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from html import escape
from os import environ
from pathlib import Path
from typing import TYPE_CHECKING, Any

import filelock
import torch
import yaml

from seqae import files
from seqae.device import make_accelerator, mixed_precision
from seqae.parameters import EXECUTION
from seqae.runs import clip_sets, experiment, logs
from seqae.runs.assignment import current_assignment
from seqae.runs.folder import RunFolder
from seqae.runs.going_on import take_over
from seqae.runs.identity import check_same_run, holds_run, run_hash, spelled_hashes
from seqae.runs.kept import kept_table
from seqae.runs.later_metrics import forget_metrics, measure, outdated, unmeasured
from seqae.runs.live import shown_in_a_line, watched
from seqae.runs.locks import FULL, UNWRITABLE, changing, remove_leftovers
from seqae.runs.merging import resolve
from seqae.runs.naming import differing, existing_name, run_name
from seqae.runs.own_code import CODE_FOLDER, OwnCode, recorded_code
from seqae.runs.own_runs import check_unedited, code_entry, with_code
from seqae.runs.page_file import outdate_page
from seqae.runs.provenance import code_entries, now, provenance_of, resumed_by
from seqae.runs.records import RunError, read_record
from seqae.runs.results import write_results
from seqae.runs.trackers import check_tracker, tracking
from seqae.stores import RECORD_FORMAT, BusyError, fetch, project_root, store_folder, unpublished, working
from seqae.training import Row

if TYPE_CHECKING:
    import pandas as pd

RECORDED = {"device", "devices", "keep_checkpoint", "label", "metrics", *clip_sets.CLIP_PATHS}  # defining none
WRITTEN = (  # by the process that trains
    *("run.yaml", "metrics.csv", "histograms.csv", "baselines.csv", "test.csv", "performance.csv"),
    *("samples.npz", "frames.png", "frames.gif", "model.safetensors", "checkpoint/state.pt"),
)


def open_run(
    family: str,
    defaults: Mapping[str, Any],
    given: Mapping[str, Any] | None = None,
    *,
    model: type[torch.nn.Module] | None = None,
    project: Path | None = None,
) -> "Run":
    """The run that the parameters `given`, merged over the family's `defaults`, define. Its folder need not exist yet.

    defaults: the values of the parameters cell of the family's notebook; in that notebook the first of the two that
    `parameter_cells()` returns. Parameters in neither have the library's default, the diary's full size: 64×64 pixels,
    200 epochs. What a remote store has of the run is fetched. Without the parameter `store`, a working directory that
    is this run's folder is taken, wherever it lies; a new run outside any project gives a warning that says where.
    model: a class of a cell of this notebook, for the parameter `architecture`. project: where modules of your own are,
    by default around the working directory.

    Raises ParameterError or ValueError for parameters that are unknown, contradict each other or do not fit torch,
    before anything is written, StoreError if a remote store cannot be reached, and RunError as `check_same_run`.

    Parameters that the run does not use, see `identity.USES`, have no effect on it, and the library's default in it.
    """
    stated = clip_sets.with_clips(resolve(defaults, given or {}))
    usual = clip_sets.decided_alike(resolve(defaults), stated, given or {})
    parameters, code, lacks_code = with_code(stated, family, model, project)
    experiment.check_parameters(parameters, code)
    usual = usual.model_copy(update={"code": parameters.code})  # a hash is no word of a name
    hashed, assignment = run_hash(parameters), current_assignment()
    spellings = spelled_hashes(parameters) | (spelled_hashes(stated) if parameters.code is None else set())
    differs = differing(parameters, usual, family)
    if assignment and any(map(assignment.is_of, spellings)):
        folder = store_folder(parameters.store) / family / assignment.run
        return Run(folder, family, parameters, differs, code, assigned=True)
    folder = Path.cwd()
    if parameters.store or not holds_run(folder, family, *spellings):
        other = set() if parameters.fresh else spellings - {hashed}
        name = existing_name(run_name(parameters, usual, family), fetch(parameters.store, family) / family, older=other)
        folder = fetch(parameters.store, f"{family}/{name}", whole=True) / family / name
        if not parameters.store and not folder.exists():
            _say_where(folder)
    if parameters.fresh:
        attempts = [folder, *(folder.with_name(f"{folder.name}-{n}") for n in range(2, 10_000))]
        folder = next(attempt for attempt in attempts if "results" not in read_record(attempt))
    check_same_run(folder, family, parameters)
    if lacks_code and "results" not in read_record(folder):
        raise lacks_code
    return Run(folder, family, parameters, differs, code)


def _say_where(folder: Path) -> None:
    if not environ.get("SEQAE_STORE") and not (project_root() / "params").is_dir():
        outside = f"{Path.cwd()} is in no project, which has notebooks/ and params/"
        told = f"{outside}: this run's results will lie in {folder}; to keep them elsewhere, set store or SEQAE_STORE"
        warnings.warn(told, stacklevel=3)


@dataclass(frozen=True, repr=False)
class Run(RunFolder):
    """One run that can be trained; `open_run` and `load` make it. What can be read of it is in `RunFolder`.

    assigned: whether a sweep gave this run to this kernel. The sweep's worker then publishes it.
    """

    assigned: bool = field(default=False, compare=False)

    def train(self) -> "Run":
        """Train the run, resume it, or, if it is done, only measure the metrics of your own that it lacks.

        Its folder then holds all of `RunFolder`. Raises RunError if another process trains the run or its folder cannot
        be written, StoreError as `working`, OwnCodeError as `check_unedited`, ValueError for a device not there.
        """
        check_unedited(self.code, trained="results" in self.record() and not unmeasured(self))
        self.once(self._train)
        if unmeasured(self):
            measure(self, self._published())
        return self

    def measured(self, measure: Callable[["Run"], "pd.DataFrame"]) -> "pd.DataFrame":
        """What a function such as `linear_probes` finds of this run: measured once, then read, see `kept_table`."""
        return kept_table(self, measure, self._published())

    def once(self, work: Callable[[], None]) -> "Run":
        """Call `work` with the run's folder locked, unless the run is done.

        work: has to end with `update(status="done", results=…)`. Raises as `train`, and what `work` raises.
        """
        if "results" in self.record():
            self.mend()
            return self
        with self._published(), self._writing():
            if "results" in (before := self.record()):  # trained by another process, while this one waited for the lock
                return self
            made = provenance_of(device=self.parameters.device, devices=self.parameters.devices)
            asked = self._asked(before, *RECORDED) | {"status": "running", "reason": None}
            if self.assigned and (assignment := current_assignment()) and assignment.planned:
                asked["planned_from"] = dict(assignment.planned)
            if code := self._all_code():
                asked["code"] = code_entry(self.parameters, code)
                code.write(self.folder / CODE_FOLDER)
            elif "code" in before:  # of metrics that are no longer asked for
                asked["code"] = {}
            if self._checkpoint.exists():  # keep what began the run on record
                self.update(**asked, resumed=[*before.get("resumed", []), resumed_by(made, before)])
                forget_metrics(self.folder, outdated(before, self.record()))
            else:
                self.update(**asked, started=now(), **made)
            work()
        return self

    def mend(self) -> None:
        """Record a trained run's label and where its clips are, and finish what its notebook or process could not.

        Does nothing to other runs, nor where another process changes the folder or it cannot be written. Raises
        StoreError as `working`.
        """
        if "results" not in (record := self.record()):
            return
        changes = self._asked(record, "label", *clip_sets.CLIP_PATHS)
        if record["status"] == "failed":  # its notebook failed after the training
            changes |= {"status": "done", "reason": None}
        # Its process may have died before it removed the checkpoint.
        drop = record["parameters"].get("keep_checkpoint") is False and self._checkpoint.exists()
        if not (changes or drop or unpublished(self.folder)):
            return
        try:
            with self._published(), changing(self.folder):
                if changes:
                    self.update(**changes)
                if drop:
                    self._drop_checkpoint()
        except (BusyError, filelock.Timeout):
            pass  # another process changes or copies the run: the next look mends it
        except OSError as error:
            if error.errno not in UNWRITABLE:  # a finished run can be shown wherever it can be read
                raise

    def fail(self, reason: str) -> None:
        """Record a failure that the run itself could not record: its process died, or its notebook has an error."""
        here = code_entries() | {"machine": platform.node(), "device": self.parameters.device}
        self.update(**({} if "machine" in self.record() else here), status="failed", reason=reason, ended=now())

    def rendered(self, cells: str) -> None:
        """Record that there is a report now, of a notebook with these cells. cells: as `cells_hash` returns them."""
        if self.record().get("cells") != cells:
            self.update(cells=cells)

    def _repr_html_(self) -> str:  # a sweep's report has the facts at its top; here the run would be said to wait
        return f"<p>{escape(f'{self.family}/{self.name}')}</p>" if self.assigned else super()._repr_html_()

    # --- inside ---

    @property
    def _checkpoint(self) -> Path:
        return self.folder / "checkpoint" / "state.pt"

    def _as_recorded(self) -> dict[str, Any]:
        return clip_sets.as_recorded(self.parameters.model_dump(mode="json", exclude=set(EXECUTION - RECORDED)))

    def _asked(self, record: Mapping[str, Any], *names: str) -> dict[str, Any]:
        # What changes in a record with other values of these parameters. Clips given by a digest are where they were.
        there, mine = record.get("parameters", {}), self._as_recorded()
        same = clip_sets.CLIP_PATHS if self.parameters.clips is None else ()
        changed = {n: mine[n] for n in names if n not in same and mine[n] != there.get(n)}
        return {"parameters": there | changed} if record and changed else {}

    def _all_code(self) -> OwnCode | None:
        return self.code or recorded_code(self.parameters, self.folder, trust=self.trusted)

    def _published(self) -> AbstractContextManager[None]:
        return nullcontext() if self.assigned else working(self.folder)

    def update(self, **changes: Any) -> None:
        """Write these entries into run.yaml, which keeps its others. Raises as `changing`."""
        base = {"format": RECORD_FORMAT, "family": self.family, "parameters": self._as_recorded()}
        with changing(self.folder):
            entries = base | {"differs": dict(self.differs)} | self.record() | changes
            files.replace_text(self.folder / "run.yaml", yaml.safe_dump(entries, sort_keys=False))
            if changes.get("status") in ("running", "done"):  # its page, of an earlier failure for one, is out of date
                outdate_page(self.folder)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        held = ExitStack()  # one process at a time trains a run; whatever ends it, the record has a status and a reason
        try:
            held.enter_context(changing(self.folder))
        except filelock.Timeout:
            what = "is being trained by another process, or copied: wait for it, or stop it"
            raise RunError(f"{self.folder} {what}") from None
        except OSError as error:
            raise RunError(f"cannot write to {self.folder}: {error.strerror}; choose another folder as store") from None
        try:
            remove_leftovers(*(self.folder / name for name in WRITTEN))
            yield
        except BaseException as error:
            reason = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
            if isinstance(error, KeyboardInterrupt):  # an interrupted run has not failed; it resumes when run again
                shown_in_a_line(error, self.folder, epochs=self.parameters.epochs)
            else:
                with suppress(OSError):
                    self.fail(reason)
            if not isinstance(error, OSError):
                raise
            where = Path(str(error.filename or ""))
            if self.folder not in (where, *where.parents) and error.errno not in FULL:  # of the data, for example
                raise
            raise RunError(
                f"cannot write to {self.folder}: {error.strerror}; free space there or choose another store; run it "
                "again and it goes on from its last checkpoint"
            ) from error
        finally:
            held.close()

    def _train(self) -> None:
        p, folder = self.parameters, self.folder
        mixed_precision(make_accelerator(device=p.device, devices=p.devices).device, p.precision)  # their errors come
        check_tracker(p.tracker)  # before the work of making data
        levels, code = experiment.reference_levels(p, self.reach), self._all_code()
        files.replace_text(folder / "baselines.csv", levels.to_csv(index=False))
        checkpoint, tables = self._checkpoint, [folder / f"{name}.csv" for name in logs.LOG_COLUMNS]
        if not checkpoint.exists():
            for log in tables:
                log.unlink(missing_ok=True)
            take_over(self)
        val = experiment.sequences(p, "val")
        if p.clips:
            self.update(clips=clip_sets.clip_facts(p))
        with tracking(p.tracker, folder / "tracker") as track:

            def record(table: str, rows: list[Row]) -> None:
                logs.append_rows(folder / f"{table}.csv", rows)
                if table == "metrics":
                    track({f"{r['split']}/{r['branch']}/{r['metric']}": r["value"] for r in rows}, rows[0]["step"])

            model, fitted, peak = experiment.train_model(
                p, val, checkpoint=checkpoint, resume=lambda epoch: logs.truncate_logs(tables, epoch), code=code,
                record=watched(record, metrics=self.metrics, epochs=p.epochs, assigned=self.assigned),
            )  # fmt: skip
        self.update(status="done", ended=now(), **write_results(self, model, val, fitted, code), peak_memory_bytes=peak)
        if not p.keep_checkpoint:
            self._drop_checkpoint()

    def _drop_checkpoint(self) -> None:
        shutil.rmtree(self._checkpoint.parent, ignore_errors=True)
