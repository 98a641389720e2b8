"""What a run tells: progress on stderr, log.csv, TensorBoard, the learning curve. All are drawn from one history of
rows.
"""

import csv
import importlib.util
import io
import shutil
import sys
import threading
import time

from kzoo.files import replacing, write_text


def columns(curves):
    """The columns of log.csv for a task's curves."""
    return ("epoch", "step", "lr", *curves, *(f"eval_{name}" for name in curves), "images_per_second", "minutes")


def clock(seconds):
    """Seconds as h:mm:ss or m:ss."""
    minutes, seconds = divmod(int(seconds + 0.5), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}" if minutes >= 60 else f"{minutes}:{seconds:02d}"


class Progress:
    """One line that is rewritten on a terminal, a line every ten seconds elsewhere."""

    def __init__(self, total, batch_size, start):
        self.total, self.batch_size, self.start = total, batch_size, start
        self.live = sys.stderr.isatty()
        self.began = None  # the first step compiles; the rate counts from its end
        self.shown = 0.0

    def update(self, step, epoch, epochs, logs):
        now = time.monotonic()
        if self.began is None:
            self.began, self.start = now, step
        if now - self.shown < (0.2 if self.live else 10) and step != self.total:
            return
        self.shown = now
        rate = self.rate(step)
        left = (
            f"{rate:.0f} images/s, {clock((self.total - step) * self.batch_size / rate)} left" if rate else "compiled"
        )
        shown = "  ".join(f"{k} {v:.4f}" for k, v in logs.items())
        text = f"epoch {epoch + 1}/{epochs}  step {step}/{self.total}  {shown}  {left}"
        print(f"\r{text:<100}" if self.live else text, end="" if self.live else "\n", file=sys.stderr, flush=True)

    def rate(self, step):
        """Images per second since the first step of this process."""
        seconds = time.monotonic() - self.began if self.began else 0.0
        return (step - self.start) * self.batch_size / seconds if seconds and step > self.start else 0.0

    def end_line(self):
        if self.live:
            print(file=sys.stderr)


class Waiting:
    """Until `done`, which may be called more often, a terminal shows that something long is going on, and since when;
    elsewhere, or not `shown`, nothing is said.
    """

    def __init__(self, text, shown=True):
        live, self._ended = shown and sys.stderr.isatty(), threading.Event()
        self._thread = threading.Thread(target=self._show, args=(text,), daemon=True) if live else None

    def __enter__(self):
        if self._thread is not None:
            self._thread.start()
        return self

    def __exit__(self, *_):
        self.done()

    def _show(self, text):
        began = time.monotonic()
        while not self._ended.is_set():
            _rewrite(f"{text} ... {clock(time.monotonic() - began)}")
            self._ended.wait(1)

    def done(self):
        if self._thread is not None and not self._ended.is_set():
            self._ended.set()
            self._thread.join()
            _rewrite("")


class Passing:
    """Progress of a pass over batches, of which `batch` is called before each: a line that is rewritten on a terminal
    and gone at its end, a line every ten seconds elsewhere.
    """

    def __init__(self, text, total):
        self.text, self.total, self.batches = text, total, 0
        self.live, self.shown = sys.stderr.isatty(), time.monotonic()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.live and self.batches:
            _rewrite("")

    def batch(self):
        self.batches += 1
        now = time.monotonic()
        if self.batches > 1 and now - self.shown < (0.2 if self.live else 10):
            return
        # more than the pass has: what a task asks of other pictures
        text = f"{self.text} {self.batches}" + (f"/{self.total}" if self.batches <= self.total else "")
        if self.live:
            _rewrite(text)
        elif self.batches > 1:
            print(text, file=sys.stderr, flush=True)
        else:
            return
        self.shown = now


def _rewrite(text):
    """Shows the text in the terminal's current line, in the place of what stood there."""
    print(f"\r{text:<100}" + ("" if text else "\r"), end="", file=sys.stderr, flush=True)


def write_csv(run, curves, history):
    """log.csv, whole, so that a resumed run has no row twice."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns(curves), extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(history)
    write_text(run / "log.csv", text.getvalue())


class TensorBoard:
    """Scalars for TensorBoard, where its package is installed; rows that were lost with a kill are written anew, not
    twice.
    """

    def __init__(self, run, curves, history):
        self.writer = None
        self.tags = (
            {"lr": "train/lr"}
            | {name: f"train/{name}" for name in curves}
            | {f"eval_{name}": f"eval/{name}" for name in curves}
        )
        self.tags["images_per_second"] = "train/images_per_second"
        if importlib.util.find_spec("tensorboard"):
            from tensorboard.summary.writer.event_file_writer import EventFileWriter

            folder = run / "tensorboard"
            if folder.exists():
                shutil.rmtree(folder)
            self.writer = EventFileWriter(str(folder))
        for row in history:
            self.add(row)

    def add(self, row):
        if self.writer is None:
            return
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        values = [Summary.Value(tag=tag, simple_value=row[key]) for key, tag in self.tags.items() if key in row]
        self.writer.add_event(Event(wall_time=row["time"], step=row["step"], summary=Summary(value=values)))
        self.writer.flush()

    def close(self):
        if self.writer is not None:
            self.writer.close()


def draw_curve(run, curves, history):
    """learning_curve.png: those of the task's curves over epochs that the run has, where matplotlib is installed."""
    curves = [name for name in curves if any({name, f"eval_{name}"} & row.keys() for row in history)]
    if not curves or not importlib.util.find_spec("matplotlib"):
        return
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.5 * len(curves), 3.5), layout="constrained")
    for axis, name in zip(figure.subplots(1, len(curves), squeeze=False).flat, curves, strict=True):
        for key, label in ((name, "training"), (f"eval_{name}", "evaluation")):
            rows = [row for row in history if key in row]
            if not rows:  # a figure of the other alone
                continue
            axis.plot(
                [row["epoch"] for row in rows],
                [row[key] for row in rows],
                marker="." if len(rows) < 40 else None,
                label=label,
            )
        axis.set(xlabel="epoch", ylabel=name)
        axis.grid(alpha=0.3)
        axis.legend()
    with replacing(run / "learning_curve.png") as temporary:
        figure.savefig(temporary, dpi=120)
