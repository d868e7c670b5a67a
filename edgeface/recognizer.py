"""`FaceRecognizer`: wiring only, and the one place that knows the order of the steps."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeface.detect import Detector
from edgeface.embed import Embedder
from edgeface.enrolment import EnrolmentLimits, check_agreement, check_view, measure_photo, refuse
from edgeface.errors import ConfigurationError, InputError
from edgeface.gallery import Gallery, check_name
from edgeface.liveness import LivenessDetector, proven
from edgeface.overlap import overlapped
from edgeface.policy import LivePolicy, make_policy
from edgeface.runtime.choice import is_file
from edgeface.runtime.frame import HeldFrame
from edgeface.runtime.stage import Stage
from edgeface.stopwatch import Stopwatch
from edgeface.types import Decision, Recognition, Verification

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping, Sequence
    from types import TracebackType

    from edgeface.gallery import Person
    from edgeface.gallery.vault import Key
    from edgeface.policy import Policy
    from edgeface.runtime.choice import Choice
    from edgeface.types import Faces, FloatArray

NEAREST_PEOPLE = 5


class FaceRecognizer:
    """Photo in, name out: detect, align, embed, search the gallery, decide. Safe to call from several threads.

    `FaceRecognizer.open` builds one from the default models. The constructor takes ready parts; closing the recogniser
    closes only what `open` made.

    Attributes:
        detector, embedder, gallery, policy, liveness: the parts, for callers who need one step alone; the last is None
            where no liveness model was given.
        runtimes: what `open` chose to run ``detector``, ``embedder`` and ``liveness`` on, each a `Choice` with its
            reason.
    """

    def __init__(
        self,
        detector: Detector,
        embedder: Embedder,
        gallery: Gallery,
        policy: Policy,
        *,
        liveness: LivenessDetector | None = None,
    ) -> None:
        if gallery.model_id != embedder.model_id:
            raise ConfigurationError(
                f"the gallery holds templates of {gallery.model_id}, the embedder makes those of {embedder.model_id}"
            )
        self.detector = detector
        self.embedder = embedder
        self.gallery = gallery
        self.liveness = liveness
        self.runtimes: Mapping[str, Choice] = {}
        self._policy = LivePolicy(policy, embedder.engine.manifest)
        self._owned = ExitStack()
        self._reload: Callable[[], None] | None = None

    def __repr__(self) -> str:
        return f"<FaceRecognizer of {self.detector!r}, {self.embedder!r}, {self.gallery!r}>"

    @property
    def policy(self) -> Policy:
        """When a similarity is a match, by the embedder that runs now. Where it follows from a false positive
        identification rate, the threshold rises with the number of templates enrolled; where another process enrols
        more than the table supports, it stays at the strictest measured, and `Policy.fpir` says what that keeps.
        """
        return self._policy.now(self.embedder.engine.manifest, lambda: self.gallery.template_count)

    @classmethod
    def open(
        cls,
        gallery: str | os.PathLike[str],
        *,
        detector: str | os.PathLike[str] = "yunet",
        embedder: str | os.PathLike[str] = "sface",
        liveness: str | os.PathLike[str] | None = None,
        precision: str = "fp32",
        runtime: str = "auto",
        fmr: float | None = None,
        fpir: float | None = None,
        threshold: float | None = None,
        margin: float | None = None,
        max_side_px: int = 640,
        threads: int | None = None,
        prepare: str = "auto",
        frame_size: tuple[int, int] = (1080, 1920),
        graphs: str = "off",
        key: Key | None = None,
    ) -> FaceRecognizer:
        """Open a gallery file, made when absent, with models from the model folder.

        Args:
            gallery: path of the gallery file.
            detector, embedder: a recipe's name, or the path of a model file with its manifest beside it.
            liveness: your own liveness model, by its recipe's name or file; edgeface ships none. By name it runs in
                float32 on onnxruntime, whatever `precision` and `runtime` say.
            precision: of models given by name: ``fp32`` as fetched, or another that `edgeface build` made.
            runtime: ``auto`` takes TensorRT where an engine of that model and precision is there and runs, otherwise
                onnxruntime, and logs a warning where the engine is there but cannot run; ``tensorrt`` and
                ``onnxruntime`` take nothing else. The choice and its reason are on `runtimes`.
            fmr: false match rate of one comparison that the threshold shall keep; 1e-4 unless told. The rate and
                where it was measured are on `policy`.
            fpir: false positive identification rate of one search instead: the share of strangers who are given a name.
                The threshold follows from it and from the number of templates enrolled.
            threshold, margin: similarities instead of the measured ones.
            max_side_px: longest side at which the detector runs.
            threads: CPU threads of one network run.
            prepare, frame_size: whether TensorRT's frames are prepared on the ``cpu`` or the ``gpu``; ``auto`` measures
                both on frames of that height and width, and `runtimes` has the figures.
            graphs: whether TensorRT's runs are recorded into CUDA graphs, as for `load_engine`.
            key: of an encrypted gallery, as for `Gallery.open`.

        Raises:
            ModelNotFoundError: a model is not in the model folder; `edgeface models fetch` brings it.
            GalleryMismatchError: the gallery was filled with another embedder.
            Also all errors of `load_engine`, `Gallery.open` and `make_policy`.
        """
        with ExitStack() as owned:
            models = {"detector": detector, "embedder": embedder}
            shared: dict[str, Any] = {"precision": precision, "runtime": runtime, "threads": threads}
            shared |= {"prepare": prepare, "frame_size": frame_size, "graphs": graphs}
            options = dict.fromkeys(models, shared)
            if liveness is not None:
                models["liveness"] = liveness
                options["liveness"] = {"runtime": "auto" if is_file(liveness) else "onnxruntime", "threads": threads}
            stage = Stage(models, options, owned)
            detecting, embedding = stage.engines["detector"], stage.engines["embedder"]
            embed = Embedder(embedding)  # first: of a model of another kind this says so
            policy = make_policy(embedding.manifest, fmr=fmr, fpir=fpir, threshold=threshold, margin=margin)
            alive = None if liveness is None else proven(LivenessDetector(stage.engines["liveness"]))
            store = Gallery.open(gallery, model_id=embed.model_id, dimension=embed.dimension, key=key)
            people = owned.enter_context(store)
            find = Detector(detecting, max_side_px=max_side_px)
            made = cls(find, embed, people, policy, liveness=alive)
            made.runtimes = stage.runtimes
            # Of a running recogniser, as few templates as there may be: more of them must not keep a GPU lost.
            made._reload = lambda: stage.reload(lambda new: made._policy.make(new["embedder"], 1))
            # Refuse now what the embedder's table does not support for so many templates.
            made._policy.make(embedding.manifest, people.template_count)
            made._owned = owned.pop_all()
            return made

    def reload(self) -> None:
        """Load the models' files again and run them from now on: after a model update, or after a lost GPU context.

        Frames in progress end on the old engines and no frame is dropped, except after a lost GPU context, when the old
        engines must go first. Both are in memory for a moment. What fails leaves the old engines running.

        Raises:
            ConfigurationError: this recogniser was made from ready parts, not by `open`.
            EngineIncompatibleError: a new file's input or embedding is not the old one's.
            ConfigurationError: also that the new embedder's table does not support the asked rate.
            Also all errors of `load_engine`.
        """
        if self._reload is None:
            raise ConfigurationError("this recogniser was made from ready engines; exchange those, or use `open`")
        self._reload()

    def recognize(
        self, frame: Any, *, pixel_format: str = "bgr", stages_ms: MutableMapping[str, float] | None = None
    ) -> list[Recognition]:
        """Say who is in a frame.

        Args:
            frame: (H, W, 3) uint8 BGR, sides of 32 to 8192 px, or another array that `pixel_format` describes.
            pixel_format: ``bgr``, or as of `Detector.detect`.
            stages_ms: receives the milliseconds of ``detect``, ``align``, ``embed``, ``search`` and, with a liveness
                model, ``liveness``.

        Returns:
            One `Recognition` a face, best detection score first; no face is an empty list.

        Raises:
            InputError: not a frame. InferenceError: a runtime failed. GalleryError: the gallery failed.
            ClosedError: this recogniser was closed.
        """
        watch = Stopwatch(stages_ms)
        with HeldFrame(frame, pixel_format=pixel_format) as held:
            faces = self.detector.detect(held)
            watch.lap("detect")
            return self._identify(held, faces, watch)

    def recognize_each(self, frames: Iterable[Any], *, pixel_format: str = "bgr") -> Iterator[list[Recognition]]:
        """Say who is in frame after frame; the next one's faces are found while this one's are embedded.

        Worth it where both networks run on a GPU, each on a stream of its own. A frame's result comes as soon as it
        is known, without waiting for the next frame.

        Args:
            frames, pixel_format: as of `recognize`. They are iterated in a thread of its own, at most one frame ahead.

        Yields:
            What `recognize` returns, in the frames' order.

        Raises:
            Also what `recognize` and `frames` raise, in their turn; it ends the iteration.
        """

        def identify(held: HeldFrame, faces: Faces) -> list[Recognition]:
            with held:
                return self._identify(held, faces, Stopwatch(None))

        held = (HeldFrame(frame, pixel_format=pixel_format) for frame in frames)
        return overlapped(held, self.detector.detect, identify)

    def _identify(self, frame: HeldFrame, faces: Faces, watch: Stopwatch) -> list[Recognition]:
        tensor = self.embedder.prepare(frame, faces.landmarks)
        watch.lap("align")
        embeddings = self.embedder.run(tensor)
        watch.lap("embed")
        found = self.gallery.search(embeddings, k=NEAREST_PEOPLE)
        policy, results = self.policy, []
        watch.lap("search")
        live: FloatArray | None = None
        if self.liveness is not None:
            live = self.liveness.scores(frame.image, faces.boxes, pixel_format=frame.pixel_format)
            watch.lap("liveness")
        for index, matches in enumerate(found):
            decision = policy.decide(matches)
            named = decision is Decision.MATCH
            results.append(
                Recognition(
                    name=matches.names[0] if named else None,
                    person_id=int(matches.person_ids[0]) if named else None,
                    decision=decision,
                    similarity=float(matches.similarities[0]) if len(matches) else -1.0,
                    margin=matches.margin,
                    box=faces.boxes[index],
                    score=float(faces.scores[index]),
                    landmarks=faces.landmarks[index],
                    matches=matches,
                    liveness=None if self.liveness is None or live is None else self.liveness.decide(live[index]),
                    liveness_score=None if live is None else float(live[index]),
                )
            )
        return results

    def enroll(
        self,
        name: str,
        photos: Any,
        *,
        pixel_format: str = "bgr",
        limits: EnrolmentLimits | None = None,
        force: bool = False,
        metadata: Mapping[str, Any] | None = None,
    ) -> Person:
        """Enrol a person, or add templates to one who is enrolled. All photographs are taken, or none.

        Args:
            name: of the person.
            photos: one (H, W, 3) uint8 BGR array, or a list of them, each with exactly one face.
            pixel_format: as of `recognize`.
            limits: what each photograph must reach; None is `EnrolmentLimits()`.
            force: enrol what the limits refuse, and log it. A photograph without exactly one face is refused anyway.
            metadata: a JSON object that the gallery keeps with the person, such as ``{"badge": 7}``; replaces the one
                that is there. None leaves it as it is. `Gallery.person` gives it back for a result's `person_id`.

        Returns:
            The person as the gallery now holds them, durably.

        Raises:
            EnrolmentError: a photograph was refused; `reason` is ``no_face``, ``several_faces`` or one of those of
                `edgeface.enrolment.Refusal`, `value` and `limit` say what was measured.
            InputError: not a photograph, not a name, or not metadata.
            ConfigurationError: with so many more templates the asked `fpir` is out of the embedder's table.
        """
        name = check_name("enroll", name)
        pictures: Sequence[Any] = photos if isinstance(photos, (list, tuple)) else [photos]
        if not pictures:
            raise InputError("photos: expected at least one photograph, got an empty list")
        limits = EnrolmentLimits() if limits is None else limits
        if not isinstance(limits, EnrolmentLimits):
            raise InputError(f"limits: expected an EnrolmentLimits, got {type(limits).__name__}")
        views = [
            measure_photo(photo, self.detector, self.embedder, pixel_format=pixel_format, number=number)
            for number, photo in enumerate(pictures, 1)
        ]
        embeddings = np.concatenate([embedding for _, embedding in views])
        refused = [(i, one) for i, (quality, _) in enumerate(views) for one in check_view(quality, limits)]
        refused += check_agreement(name, embeddings, self.gallery, self.policy, limits)
        refuse(name, refused, force=force)
        if self.policy.fpir is not None:
            # Refused here: one template too many would end recognition for all.
            self._policy.make(self.embedder.engine.manifest, self.gallery.template_count + len(pictures))
        qualities = [float(quality.score[0]) for quality, _ in views]
        return self.gallery.add(name, embeddings, qualities=qualities, metadata=metadata)

    def verify(self, a: Any, b: Any, *, pixel_format: str = "bgr") -> Verification:
        """Compare the people of two photographs, without the gallery.

        Args:
            a, b: (H, W, 3) uint8 BGR. Of several faces the one that the picture is of counts: large, near the middle.
            pixel_format: as of `recognize`, of both.

        Raises:
            InputError: not a photograph, or no face in it.
        """
        one, other = (self._subject(photo, pixel_format, which) for photo, which in ((a, "first"), (b, "second")))
        similarity = float(one @ other)
        policy = self.policy
        return Verification(similarity >= policy.threshold, similarity, policy.threshold, policy.fmr)

    def _subject(self, photo: Any, pixel_format: str, which: str) -> FloatArray:
        with HeldFrame(photo, pixel_format=pixel_format) as held:
            faces = self.detector.detect(held)
            if len(faces) == 0:
                raise InputError(f"{which} photograph: expected a face, found none")
            embedding: FloatArray = self.embedder.embed(held, faces.subject(*held.size).landmarks)[0]
        return embedding

    def close(self) -> None:
        """Close the engines and the gallery that `open` made. Closing twice is harmless."""
        self._owned.close()

    def __enter__(self) -> FaceRecognizer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
