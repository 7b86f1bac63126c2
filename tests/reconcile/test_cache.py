"""The cache: in whatever order lists, events and responses arrive, it never goes back and ends at the truth."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchwright_operator.kube.objects import CONFIG_MAP, POD, Raw
from batchwright_operator.reconcile.cache import LOST_AFTER, ListWatch, Store, version_of
from batchwright_operator.reconcile.decisions import Key
from batchwright_operator.reconcile.interfaces import Watch


def pod(name: str, version: int, **labels: str) -> Raw:
    return {"metadata": {"name": name, "namespace": "n", "uid": f"{name}-uid", "resourceVersion": str(version), "labels": labels}}  # fmt: skip  # noqa: E501


def keys_of(obj: Raw) -> list[Key]:
    return [Key(reconciler="d", name=obj["metadata"]["name"])]


def new_store(notified: list[str] | None = None, *selectors: str) -> tuple[Store, list[ListWatch]]:
    store = Store(lambda key: notified.append(key.name) if notified is not None else None)
    wanted = [
        Watch(resource=POD, keys=keys_of, label_selector=text, index_labels=("app",)) for text in selectors or ("",)
    ]
    return store, [store.register(watch) for watch in wanted]


def names(objects: list[Raw]) -> set[str]:
    return {obj["metadata"]["name"] for obj in objects}


history = st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["put", "put", "delete"])), max_size=25)


def play(steps: list[tuple[str, str]]) -> tuple[list[tuple[str, Raw]], list[dict[str, Raw]]]:
    """What the API server would send as events, and its whole state after each version (index = version)."""
    events: list[tuple[str, Raw]] = []
    states: list[dict[str, Raw]] = [{}]
    for version, (name, step) in enumerate(steps, start=1):
        state = dict(states[-1])
        if step == "put":
            state[name] = pod(name, version)
            events.append(("MODIFIED", state[name]))
        elif name in state:
            del state[name]
            events.append(("DELETED", pod(name, version)))
        states.append(state)
    return events, states


@given(steps=history, data=st.data())
def test_it_ends_at_the_truth_after_any_mixture_of_sources(steps: list[tuple[str, str]], data: st.DataObject) -> None:
    """Events in order (as watches give them), with repeated old ones, late responses and late lists in between."""
    events, states = play(steps)
    store, (list_watch,) = new_store()
    delivered = 0
    while delivered < len(events):
        source = data.draw(st.sampled_from(["event", "event", "again", "response", "list"]))
        version = version_of(events[delivered][1])
        if source == "event":
            deliver(store, list_watch, events[delivered])
            delivered += 1
        elif source == "again" and delivered:
            deliver(store, list_watch, data.draw(st.sampled_from(events[:delivered])))
        elif source == "response":
            kind, obj = data.draw(st.sampled_from(events[: delivered + 1]))
            if kind == "MODIFIED":
                store.written(POD, obj)
        elif source == "list":
            at = data.draw(st.integers(0, version))
            store.replace(list_watch, states[at].values(), at)
    assert {one["metadata"]["name"]: version_of(one) for one in store.all(POD)} == {
        name: version_of(obj) for name, obj in states[-1].items()
    }


def deliver(store: Store, list_watch: ListWatch, event: tuple[str, Raw]) -> None:
    kind, obj = event
    (store.deleted if kind == "DELETED" else store.changed)(list_watch, obj)


def test_events_out_of_order_are_all_taken_where_order_is_not_promised() -> None:
    store, (list_watch,) = new_store()
    list_watch.ordered = False
    store.replace(list_watch, [], 3)
    for name, version in (("b", 6), ("a", 5), ("old", 2)):
        store.changed(list_watch, pod(name, version))
    assert names(store.all(POD)) == {"a", "b"}


@given(versions=st.lists(st.integers(1, 50), min_size=1))
def test_an_object_never_gets_older(versions: list[int]) -> None:
    store, (list_watch,) = new_store()
    list_watch.ordered = False
    for version in versions:
        store.changed(list_watch, pod("a", version))
        cached = store.get(POD, "n", "a")
        assert cached is not None
        assert version_of(cached) >= version
    assert version_of(store.all(POD)[0]) == max(versions)


def test_versions_are_compared_as_numbers() -> None:
    store, (list_watch,) = new_store()
    store.changed(list_watch, pod("a", 9))
    store.changed(list_watch, pod("a", 10))
    assert version_of(store.all(POD)[0]) == 10


def test_a_response_after_the_deletion_was_seen_does_not_bring_the_object_back() -> None:
    store, (list_watch,) = new_store()
    store.changed(list_watch, pod("a", 5))
    store.deleted(list_watch, pod("a", 7))
    store.written(POD, pod("a", 6))
    assert store.all(POD) == []


def test_a_response_ahead_of_the_watch_is_there_at_once() -> None:
    notified: list[str] = []
    store, (list_watch,) = new_store(notified)
    store.replace(list_watch, [], 5)
    store.written(POD, pod("a", 8))
    assert names(store.all(POD)) == {"a"}
    store.changed(list_watch, pod("a", 8))
    assert notified == ["a"], "the watch's echo of our own write queues no key"


def test_a_list_that_is_older_than_our_write_does_not_undo_it() -> None:
    store, (list_watch,) = new_store()
    store.written(POD, pod("a", 8))
    store.replace(list_watch, [], 7)
    assert names(store.all(POD)) == {"a"}
    store.replace(list_watch, [], 9)
    assert store.all(POD) == []


def test_an_old_deletion_leaves_the_object_that_was_made_since() -> None:
    store, (list_watch,) = new_store()
    store.changed(list_watch, pod("a", 9))
    store.deleted(list_watch, pod("a", 7))
    assert names(store.all(POD)) == {"a"}


def test_an_object_that_leaves_one_selector_stays_for_another() -> None:
    store, (red, all_) = new_store(None, "colour=red", "")
    store.changed(red, pod("a", 1, colour="red"))
    store.deleted(red, pod("a", 2, colour="blue"))
    store.changed(all_, pod("a", 2, colour="blue"))
    assert names(store.all(POD)) == {"a"}
    store.replace(red, [], 3)
    assert names(store.all(POD)) == {"a"}


def test_indexes_follow_changes() -> None:
    store, (list_watch,) = new_store()
    store.changed(list_watch, pod("a", 1, app="x"))
    store.changed(list_watch, pod("b", 2, app="x"))
    store.changed(list_watch, pod("a", 3, app="y"))
    assert names(store.labelled(POD, "app", "x")) == {"b"}
    assert names(store.labelled(POD, "app", "y", namespace="n")) == {"a"}
    assert store.labelled(POD, "app", "y", namespace="other") == []
    assert names(store.all(POD, namespace="n")) == {"a", "b"}


def test_owned_means_the_controller_reference() -> None:
    store, (list_watch,) = new_store()
    owned = pod("a", 1)
    owned["metadata"]["ownerReferences"] = [{"uid": "u1"}, {"uid": "u2", "controller": True}]
    store.changed(list_watch, owned)
    assert (names(store.owned(POD, "u2")), store.owned(POD, "u1")) == ({"a"}, [])


def test_what_no_list_watch_sees_is_not_kept() -> None:
    store, _ = new_store(None, "colour=red")
    store.written(POD, pod("a", 1, colour="blue"))
    store.written(CONFIG_MAP, pod("c", 2))
    assert store.all(POD) == []
    assert store.all(CONFIG_MAP) == []
    assert not store.is_watched(CONFIG_MAP, pod("c", 2))


def test_old_and_new_state_are_both_asked_for_keys() -> None:
    notified: list[str] = []
    store = Store(lambda key: notified.append(key.name))
    list_watch = store.register(
        Watch(resource=POD, keys=lambda obj: [Key(reconciler="d", name=obj["metadata"]["labels"]["on"])])
    )
    store.changed(list_watch, pod("a", 1, on="x"))
    store.changed(list_watch, pod("a", 2, on="y"))
    store.not_found(POD, "n", "a", "a-uid")
    assert notified == ["x", "x", "y", "y"]


def test_the_key_that_wrote_a_status_is_not_queued() -> None:
    notified: list[str] = []
    store, (list_watch,) = new_store(notified)
    store.changed(list_watch, pod("a", 1))
    store.written(POD, pod("a", 2), skip=Key(reconciler="d", name="a"))
    assert notified == ["a"]


def test_list_watches_of_equal_selectors_are_shared() -> None:
    store, list_watches = new_store(None, "a=b", "a=b", "")
    assert (list_watches[0] is list_watches[1], len(store.list_watches())) == (True, 2)


def test_managed_fields_are_dropped_and_the_kind_is_filled_in() -> None:
    store, (list_watch,) = new_store()
    raw: dict[str, Any] = pod("a", 1)
    raw["metadata"]["managedFields"] = [{}]
    store.replace(list_watch, [raw], 1)
    cached = store.get(POD, "n", "a")
    assert cached is not None
    assert "managedFields" not in cached["metadata"]
    assert (cached["kind"], cached["apiVersion"]) == ("Pod", "v1")
    assert "managedFields" in raw["metadata"], "what came in is not changed"


@pytest.mark.filterwarnings("default")
def test_a_failing_key_function_does_not_stop_the_others() -> None:
    notified: list[str] = []
    store = Store(lambda key: notified.append(key.name))
    store.register(Watch(resource=POD, keys=lambda obj: [Key(reconciler="d", name=obj["no such field"])]))
    list_watch = store.register(Watch(resource=POD, keys=keys_of))
    store.changed(list_watch, pod("a", 1))
    assert notified == ["a"]


def test_a_reader_is_told_what_came_changed_and_went_since_it_last_asked() -> None:
    store, (list_watch,) = new_store()
    reader = store.changes(POD)
    assert reader.take() is None, "at first anything may have changed"
    store.replace(list_watch, [pod("a", 1), pod("b", 2)], 2)
    assert reader.take() == {("n", "a"): None, ("n", "b"): None}
    store.changed(list_watch, pod("a", 3))
    store.deleted(list_watch, pod("b", 4))
    assert reader.take() == {("n", "a"): None, ("n", "b"): None}
    assert reader.take() == {}


def test_a_reader_that_does_not_read_is_told_that_anything_may_have_changed() -> None:
    store, (list_watch,) = new_store()
    reader = store.changes(POD)
    reader.take()
    for number in range(LOST_AFTER + 10):
        store.changed(list_watch, pod(f"p{number}", 2 * number + 1))
        store.deleted(list_watch, pod(f"p{number}", 2 * number + 2))
    assert reader.take() is None
    assert reader.take() == {}
