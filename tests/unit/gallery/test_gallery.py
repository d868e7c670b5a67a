"""What `Gallery` promises its callers."""

from __future__ import annotations

import multiprocessing
import os
import stat
import threading
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgeface.errors import ClosedError, InputError, PersonExistsError, PersonNotFoundError
from edgeface.gallery import Gallery, schema

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import numpy.typing as npt

    Draw = Callable[..., npt.NDArray[np.float32]]


def test_finds_who_was_added(gallery: Gallery, units: Draw) -> None:
    rows = units(20)
    for number, row in enumerate(rows):
        gallery.add(f"person {number}", row)
    for number, match in enumerate(gallery.search(rows, k=3)):
        assert match.names[0] == f"person {number}"
        assert len(match) == 3
        assert match.similarities[0] > 0.999
        assert match.margin > 0.3


def test_similarities_are_the_cosines_with_the_stored_templates(gallery: Gallery, units: Draw) -> None:
    rows, probe = units(200), units(1)[0]
    for number, row in enumerate(rows):
        gallery.add(f"{number}", row)
    match = gallery.search(probe, k=200)[0]
    exact = {f"{number}": float(row @ probe) for number, row in enumerate(rows)}
    for name, similarity in zip(match.names, match.similarities, strict=True):
        assert similarity == pytest.approx(exact[name], abs=0.004)  # a step of int8 is 0.004
    assert np.all(np.diff(match.similarities) <= 0)
    assert len(match) == 200


def test_float32_templates_give_the_cosines_themselves(path: Path, units: Draw) -> None:
    rows, probe = units(50), units(1)[0]
    with Gallery.open(path, model_id="m", dimension=128, template="float32") as gallery:
        for number, row in enumerate(rows):
            gallery.add(f"{number}", row)
        match = gallery.search(probe, k=50)[0]
    want = np.sort(rows @ probe)[::-1]
    np.testing.assert_allclose(match.similarities, want, atol=2e-6)


def test_a_person_is_found_by_the_best_of_several_templates_and_appears_once(gallery: Gallery, units: Draw) -> None:
    many = units(60)
    assert gallery.add("many", many).templates == 60
    gallery.add("other", units(1))
    match = gallery.search(many[41], k=5)[0]
    assert match.names == ("many", "other")  # though 60 templates lie before the second person's
    assert match.similarities[0] > 0.999


def test_search_by_hand_agrees_with_a_plain_computation(gallery: Gallery, units: Draw) -> None:
    random = np.random.default_rng(3)
    rows, owners = units(300), random.integers(0, 40, 300)
    for owner in range(40):
        if (owners == owner).any():
            gallery.add(f"{owner}", rows[owners == owner])
    probes = units(10)
    for probe, match in zip(probes, gallery.search(probes, k=4), strict=True):
        best = {int(owner): float((rows[owners == owner] @ probe).max()) for owner in set(owners)}
        want = sorted(best, key=lambda owner: -best[owner])[:4]
        np.testing.assert_allclose(match.similarities, [best[o] for o in want], atol=0.004)


def test_a_second_add_gives_the_person_more_templates(gallery: Gallery, units: Draw) -> None:
    first = gallery.add("ada", units(1), metadata={"badge": 7})
    second = gallery.add("ada", units(2))
    assert (second.person_id, second.templates, second.metadata) == (first.person_id, 3, {"badge": 7})
    assert second.created == first.created
    assert len(gallery) == 1


def test_remove_and_rename(gallery: Gallery, units: Draw) -> None:
    rows = units(2)
    ada, bob = gallery.add("ada", rows[0]), gallery.add("bob", rows[1])
    assert gallery.rename("ada", "ada lovelace").person_id == ada.person_id
    assert gallery.search(rows[0])[0].names == ("ada lovelace", "bob")
    with pytest.raises(PersonExistsError, match="bob"):
        gallery.rename("ada lovelace", "bob")
    gallery.remove("ada lovelace")
    assert gallery.search(rows[0])[0].names == ("bob",)
    assert [one.name for one in gallery.people()] == ["bob"]
    for call in (lambda: gallery.remove("ada"), lambda: gallery.rename("ada", "eve")):
        with pytest.raises(PersonNotFoundError, match="ada"):
            call()
    assert gallery.add("eve", rows[0]).person_id > bob.person_id


def test_a_person_is_found_by_the_id_of_a_result(gallery: Gallery, units: Draw) -> None:
    rows = units(2)
    gallery.add("ada", rows[0], metadata={"badge": 7})
    bob = gallery.add("bob", rows[1])
    match = gallery.search(rows[0])[0]
    found = gallery.person(match.person_ids[0])  # numpy's int64, as it stands there
    assert (found.name, found.metadata, found.templates) == ("ada", {"badge": 7}, 1)
    assert gallery.person(bob.person_id) == bob
    gallery.remove("bob")
    with pytest.raises(PersonNotFoundError, match=f"nobody with the id {bob.person_id}; see"):
        gallery.person(bob.person_id)


@pytest.mark.parametrize("given", [0, -1, 1.0, True, "1", None, 1 << 63])
def test_what_is_not_an_id_is_refused(gallery: Gallery, given: Any) -> None:
    with pytest.raises(InputError, match="id: expected a whole number of at least 1"):
        gallery.person(given)


def test_ids_are_never_given_twice(path: Path, units: Draw) -> None:
    with Gallery.open(path, model_id="m", dimension=128) as gallery:
        last = gallery.add("a", units(1)).person_id
        gallery.remove("a")
    with Gallery.open(path, model_id="m", dimension=128) as gallery:
        assert gallery.add("b", units(1)).person_id > last


def test_an_empty_gallery_finds_nobody(gallery: Gallery, units: Draw) -> None:
    assert [len(match) for match in gallery.search(units(2))] == [0, 0]
    assert gallery.search(units(0)) == []
    assert gallery.people() == []
    assert len(gallery) == 0


def test_reopening_shows_the_same_people(path: Path, units: Draw) -> None:
    rows = units(3)
    with Gallery.open(path, model_id="m", dimension=128) as gallery:
        gallery.add("ada", rows, qualities=[1, 0.5, 0.25], source_hashes=["a", "b", "c"], metadata={"x": [1, None]})
        before = gallery.people()
    with Gallery.open(path, model_id="m", dimension=128) as gallery:
        assert gallery.people() == before
        assert gallery.search(rows[2])[0].similarities[0] > 0.999
    with Gallery.open(path, model_id=None) as gallery:
        assert (gallery.model_id, gallery.dimension, gallery.template) == ("m", 128, "int8")


def test_the_file_and_its_companions_are_the_owners_only(gallery: Gallery, path: Path, units: Draw) -> None:
    gallery.add("ada", units(1))
    modes = {one.name: stat.S_IMODE(one.stat().st_mode) for one in path.parent.iterdir()}
    assert modes == {path.name: 0o600, f"{path.name}-wal": 0o600, f"{path.name}-shm": 0o600}


def test_a_closed_gallery_says_so(gallery: Gallery, units: Draw) -> None:
    gallery.close()
    gallery.close()
    for call in (gallery.people, lambda: gallery.search(units(1)), lambda: gallery.add("a", units(1))):
        with pytest.raises(ClosedError, match="closed"):
            call()


def test_a_change_by_another_opener_is_seen_by_the_next_search(gallery: Gallery, path: Path, units: Draw) -> None:
    rows = units(3)
    with Gallery.open(path, model_id="test-model", dimension=128) as other:
        other.add("ada", rows[0])
        assert gallery.search(rows[0])[0].names == ("ada",)
        gallery.add("bob", rows[1])
        assert other.search(rows[1])[0].names[0] == "bob"
        other.remove("ada")
        assert gallery.search(rows[0])[0].names == ("bob",)


def test_a_reader_that_fell_behind_the_log_loads_everything(
    gallery: Gallery, path: Path, units: Draw, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schema, "CHANGES_KEPT", 10)
    rows = units(30)
    gallery.search(rows[0])
    with Gallery.open(path, model_id="test-model", dimension=128) as other:
        for number, row in enumerate(rows):
            other.add(f"{number}", row)
        other.remove("3")
        with other._store.database.reading() as connection:
            assert connection.execute("SELECT count(*) FROM changes").fetchone()[0] <= 10
    assert [match.names[0] for match in gallery.search(rows[4:], k=1)] == [f"{number}" for number in range(4, 30)]
    assert "3" not in gallery.search(rows[3], k=30)[0].names


def _add_in_child(path: str, row: npt.NDArray[np.float32]) -> None:
    with Gallery.open(path, model_id="test-model", dimension=128) as gallery:
        gallery.add("from the child", row)


def test_a_change_by_another_process_is_seen_by_the_next_search(gallery: Gallery, path: Path, units: Draw) -> None:
    rows = units(2)
    gallery.add("here", rows[0])
    child = multiprocessing.get_context("spawn").Process(target=_add_in_child, args=(str(path), rows[1]))
    child.start()
    child.join(30)
    assert child.exitcode == 0
    assert gallery.search(rows[1])[0].names[0] == "from the child"


def test_using_a_gallery_after_a_fork_is_refused(gallery: Gallery, units: Draw) -> None:
    gallery.add("ada", units(1))
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            gallery.people()
            os.write(write, b"no error")
        except ClosedError:
            os.write(write, b"refused")
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    assert os.read(read, 20) == b"refused"
    os.close(read)
    os.close(write)
    assert len(gallery) == 1


def test_threads_add_and_search_at_once(gallery: Gallery, units: Draw) -> None:
    rows = units(80)
    failures: list[BaseException] = []

    def work(part: int) -> None:
        try:
            for number in range(part, 80, 4):
                gallery.add(f"{number}", rows[number])
                assert gallery.search(rows[number])[0].names[0] == f"{number}"
        except BaseException as error:  # noqa: BLE001 - carried to the main thread
            failures.append(error)

    threads = [threading.Thread(target=work, args=(part,)) for part in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert failures == []
    assert len(gallery) == 80


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    steps=st.lists(
        st.tuples(st.sampled_from(["add", "remove", "rename", "search"]), st.integers(0, 5), st.integers(0, 5)),
        max_size=25,
    )
)
def test_any_sequence_of_changes_agrees_with_a_dictionary(tmp_path: Path, steps: list[tuple[str, int, int]]) -> None:
    random = np.random.default_rng(len(steps))
    path = tmp_path / f"{time.time_ns()}.gallery"
    model: dict[str, list[npt.NDArray[np.float32]]] = {}
    with Gallery.open(path, model_id="m", dimension=16) as gallery:
        for step, one, two in steps:
            name, other = f"p{one}", f"p{two}"
            if step == "add":
                row = random.standard_normal(16).astype(np.float32)
                row /= np.linalg.norm(row)
                if np.abs(row).max() > 0.9:
                    continue
                gallery.add(name, row)
                model.setdefault(name, []).append(row)
            elif step == "remove":
                if name in model:
                    gallery.remove(name)
                    del model[name]
                else:
                    with pytest.raises(PersonNotFoundError):
                        gallery.remove(name)
            elif step == "rename" and name in model and (other not in model or name == other):
                gallery.rename(name, other)
                model[other] = model.pop(name)
            for person, rows in model.items():
                assert gallery.search(rows[-1], k=1)[0].names == (person,)
        assert {one.name: one.templates for one in gallery.people()} == {n: len(r) for n, r in model.items()}
    with Gallery.open(path, model_id="m", dimension=16) as gallery:
        assert {one.name: one.templates for one in gallery.people()} == {n: len(r) for n, r in model.items()}
