"""The plug-in keeps lmms-eval's contract: order, batches, repeats, failures. The harness's classes are stood in for."""

from __future__ import annotations

import abc
import importlib
import io
import sys
import tomllib
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import pytest
from PIL import Image

from mindvl.phases.answering import Prompt, load_answerer
from mindvl.phases.decoding import Decoding
from mindvl.phases.likelihood import likelihoods

QUESTIONS = ("which?", "read this, please", "what?", "?")
SETTINGS = {"max_new_tokens": 6, "temperature": 0, "do_sample": False, "until": ["\n\n"]}


class lmms(abc.ABC):
    is_simple = True

    def __init__(self):
        self._rank, self._world_size = 0, 1
        self.task_dict: dict[str, Any] = {}

    @property
    def rank(self):
        return self._rank

    @abc.abstractmethod
    def loglikelihood(self, requests): ...

    @abc.abstractmethod
    def generate_until(self, requests): ...

    @abc.abstractmethod
    def generate_until_multi_round(self, requests): ...


@dataclass
class TokenCounts:
    input_tokens: int | None = None
    output_tokens: int | None = None
    reasoning_tokens: int | None = None


@dataclass
class GenerationResult:
    text: str
    token_counts: TokenCounts | None = None


@dataclass(frozen=True)
class ModelManifest:
    model_id: str
    simple_class_path: str | None = None
    chat_class_path: str | None = None
    aliases: tuple[str, ...] = ()


@dataclass
class Instance:
    arguments: tuple
    metadata: dict = field(default_factory=dict)

    @property
    def args(self):
        return self.arguments

    @property
    def task_name(self):
        return self.metadata["task"]

    @property
    def doc_id(self):
        return self.metadata["doc_id"]


def stand_ins() -> dict[str, ModuleType]:
    """The modules of lmms-eval 0.7.3 that the plug-in imports, in their shape alone."""
    places = {
        "lmms_eval": (),
        "lmms_eval.api": (),
        "lmms_eval.api.model": (lmms,),
        "lmms_eval.api.instance": (TokenCounts, GenerationResult, Instance),
        "lmms_eval.models": (),
        "lmms_eval.models.registry_v2": (ModelManifest,),
    }
    made = {name: ModuleType(name) for name in places}
    for name, things in places.items():
        for thing in things:
            setattr(made[name], thing.__name__, thing)
    return made


@pytest.fixture
def plugin(monkeypatch, pytestconfig):
    """The module that the entry point leads to."""
    for name, module in stand_ins().items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setenv("TQDM_DISABLE", "1")
    with (pytestconfig.rootpath / "pyproject.toml").open("rb") as file:
        entry = tomllib.load(file)["project"]["entry-points"]["lmms_eval.models"]["mindvl"]
    place, _, function = entry.partition(":")
    manifest = getattr(importlib.import_module(place), function)()
    module, _, name = manifest.chat_class_path.rpartition(".")
    assert (manifest.model_id, manifest.simple_class_path, name) == ("mindvl", None, "MindVLChat")
    yield importlib.import_module(module)
    sys.modules.pop(module)  # it is built on stand-ins


@pytest.fixture
def documents(picture) -> list[dict]:
    return [{"text": text, "file": picture(56, 28 * (n + 1), seed=n)} for n, text in enumerate(QUESTIONS)]


@pytest.fixture
def model(plugin, saved_model, documents):
    """A plug-in model that knows the documents of task `read`."""

    def make(**arguments):
        made = plugin.MindVLChat(str(saved_model), device="cpu", **arguments)
        made.task_dict = {"read": {"test": documents}}
        return made

    return make


@pytest.fixture
def requests(documents):
    """What lmms-eval would ask about the documents, with the given generation settings among its own."""

    def make(**settings) -> list[Instance]:
        return [
            Instance(("", messages_of, {**SETTINGS, **settings}, number, "read", "test"), metadata("read", number))
            for number in range(len(documents))
        ]

    return make


@pytest.fixture
def prompts(documents) -> list[Prompt]:
    """The same as our own evaluation asks it."""
    return [
        Prompt(
            [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": its["text"]}]}], (its["file"],)
        )
        for its in documents
    ]


def metadata(task: str, number: int) -> dict[str, Any]:
    return {"task": task, "doc_id": number}


def pictures_of(document: dict) -> list[Image.Image]:
    return [Image.open(io.BytesIO(document["file"]))]


def messages_of(document: dict) -> list[dict]:
    (image,) = pictures_of(document)
    return [{"role": "user", "content": [{"type": "image", "url": image}, {"type": "text", "text": document["text"]}]}]


def texts(results) -> list[str]:
    return [result.text for result in results]


def test_the_class_is_a_chat_model_of_the_harness(plugin):
    assert plugin.MindVLChat.is_simple is False and not plugin.MindVLChat.__abstractmethods__


@pytest.mark.parametrize("batch_size", [1, "3", "auto", None])
def test_answers_are_the_answerers_in_the_order_of_the_requests(batch_size, model, saved_model, requests, prompts):
    expected = load_answerer(saved_model).answer(prompts, Decoding(max_new_tokens=6))
    results = model(batch_size=batch_size).generate_until(requests())
    assert texts(results) == [answer.text for answer in expected] and len(set(texts(results))) == 4
    assert [result.token_counts.output_tokens for result in results] == [answer.new_tokens for answer in expected]
    assert texts(model().generate_until(requests()[::-1]))[::-1] == texts(results)


def test_a_window_of_requests_is_held_at_a_time(plugin, model, monkeypatch, requests):
    whole = texts(model().generate_until(requests()))
    monkeypatch.setattr(plugin, "_WINDOW", 3)
    assert texts(model().generate_until(requests())) == whole


def test_requests_with_settings_of_their_own_are_answered_by_them(model, saved_model, requests, prompts):
    mixed = requests()
    mixed[1].arguments = (*mixed[1].arguments[:2], {**SETTINGS, "max_new_tokens": 2}, *mixed[1].arguments[3:])
    answerer = load_answerer(saved_model)
    long, short = (answerer.answer(prompts, Decoding(max_new_tokens=length)) for length in (6, 2))
    expected = [long[0].text, short[1].text, long[2].text, long[3].text]
    assert texts(model().generate_until(mixed)) == expected


def test_the_pixel_budget_and_the_decoding_are_arguments(model, saved_model, requests, prompts):
    answerer = load_answerer(saved_model, min_pixels=28 * 28, max_pixels=28 * 28)
    expected = [answer.text for answer in answerer.answer(prompts, Decoding(max_new_tokens=4))]
    small = model(min_pixels=28 * 28, max_pixels=28 * 28, max_new_tokens=4)
    assert texts(small.generate_until(requests())) == expected
    with pytest.raises(ValueError, match="min_pixels is 7840, more than max_pixels, 784"):
        model(min_pixels=7840, max_pixels=784)
    with pytest.raises(ValueError, match="temperature is -1"):
        model(temperature=-1)


def test_repeats_of_a_request_are_drawn_anew_and_a_rerun_draws_them_again(model, requests):
    request = requests(temperature=1.0, do_sample=True)[0]
    drawn = texts(model(seed=5).generate_until([request] * 4))
    assert len(set(drawn)) > 1 and texts(model(seed=5).generate_until([request] * 4)) == drawn
    greedy = requests()[0]
    assert len(set(texts(model().generate_until([greedy] * 3)))) == 1


def test_a_request_that_cannot_be_asked_is_empty_and_named_and_spoils_no_other(model, caplog, requests, documents):
    whole = texts(model().generate_until(requests()))
    documents[2]["text"] = "a NUL \x00"
    assert texts(model().generate_until(requests())) == [*whole[:2], "", whole[3]]
    assert "read, document 2 is answered by an empty text" in caplog.text and "NUL" in caplog.text


def test_loglikelihood_is_the_answerers_and_a_leading_space_plays_no_part(model, saved_model, prompts):
    def ask(continuation):
        place = (pictures_of, 1, "read", "test")
        return Instance((QUESTIONS[1], continuation, *place), metadata("read", 1))

    found = model().loglikelihood([ask(" yes"), ask("yes"), ask(lambda document: "no")])
    expected = likelihoods(load_answerer(saved_model), [prompts[1]] * 2, ["yes", "no"])
    yes, no = [(each.log_prob, each.greedy) for each in expected]
    assert [pair[1] for pair in found] == [yes[1], yes[1], no[1]]
    assert [pair[0] for pair in found] == pytest.approx([yes[0], yes[0], no[0]], abs=1e-4)


def test_loglikelihood_takes_options_without_a_question_and_refuses_what_it_cannot_ask(model):
    bare = Instance(("", "yes"), metadata("read", 0))
    ((log_prob, _),) = model().loglikelihood([bare])
    assert log_prob < 0
    broken = Instance(("?", "yes", lambda _: [3], 0, "read", "test"), metadata("read", 0))
    with pytest.raises(ValueError, match="read, document 0 cannot be asked: a picture is a int"):
        model().loglikelihood([broken])


def test_rounds_are_refused_in_a_sentence(model):
    with pytest.raises(NotImplementedError, match="answers one round"):
        model().generate_until_multi_round([])
