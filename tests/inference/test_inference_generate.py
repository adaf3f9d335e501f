"""Text from language models: what comes out is what steps one by one would give, for every prompt by itself."""

import dataclasses

import pytest
import torch

from longstate._checks import InputError
from longstate.inference import Generation, Sampling, StopStream, generate, read_prompts, select_rows, verify_draft
from longstate.models import (
    AttentionConfig,
    BackboneConfig,
    ByteTokenizer,
    LanguageModel,
    LanguageModelConfig,
    LayerConfig,
    Mamba2Config,
    MambaConfig,
    S4DConfig,
)

STACKS: dict[str, tuple[LayerConfig, ...]] = {
    "mamba": (MambaConfig(d_state=4),),
    "s4d": (S4DConfig(d_state=4),),
    "hybrid": (Mamba2Config(d_state=4, head_dim=4), AttentionConfig(n_heads=2, rotary_base=100.0)),
    "window": (MambaConfig(d_state=4), AttentionConfig(n_heads=2, window=4)),
}
PROMPTS = [[104, 101, 108], [1], [7, 8, 9, 10, 11, 12, 13, 14, 15], [99, 100]]


def language_model(stack: str = "mamba", **options) -> LanguageModel:
    """In float64, so that rounding decides nothing."""
    torch.manual_seed(0)
    backbone = BackboneConfig(d_model=8, n_layers=1, pattern=STACKS[stack], norm="rms", dropout=0.3)
    model = LanguageModel(LanguageModelConfig(backbone=backbone, **options))
    torch.nn.init.normal_(model.embedding.weight, std=0.5)
    return model.double().eval()


def greedy(model: LanguageModel, prompt: list[int], count: int) -> list[int]:
    """Every token from the whole text so far."""
    ids = list(prompt)
    with torch.no_grad():
        for _ in range(count):
            ids.append(int(model(torch.tensor([ids]))[0, -1].argmax()))
    return ids[len(prompt) :]


@pytest.mark.parametrize("stack", STACKS)
@pytest.mark.parametrize("prefill", [1, 4, 1000])
def test_prompts_of_unequal_length_go_on_as_each_would_alone(stack: str, prefill: int) -> None:
    model = language_model(stack)
    found = generate(model, PROMPTS, max_new_tokens=12, sampling=Sampling(greedy=True), prefill=prefill)
    expected = [tuple(greedy(model, prompt, 12)) for prompt in PROMPTS]
    assert [each.ids for each in found] == expected
    assert len(set(expected)) > 1
    assert {(each.text, each.reason) for each in found} == {(None, "length")}


def test_chance_is_that_of_the_seed_and_of_nothing_else() -> None:
    model = language_model()
    together = generate(model, PROMPTS, max_new_tokens=9, seed=5)
    alone = [generate(model, [prompt], max_new_tokens=9, seed=5 + row)[0] for row, prompt in enumerate(PROMPTS)]
    assert list(together) == alone
    assert generate(model, PROMPTS, max_new_tokens=9, seed=6) != together


def test_rows_that_are_at_their_end_leave_and_the_others_do_not_notice(monkeypatch: pytest.MonkeyPatch) -> None:
    model = language_model()
    whole = [each.ids for each in generate(model, PROMPTS, max_new_tokens=20, seed=1)]
    end = whole[2][7]
    sizes, step = [], LanguageModel.step

    def counted(self, x_t, state, **options):
        sizes.append(len(x_t))
        return step(self, x_t, state, **options)

    monkeypatch.setattr(LanguageModel, "step", counted)
    found = generate(model, PROMPTS, max_new_tokens=20, seed=1, end_ids=[end])
    for ids, each in zip(whole, found, strict=True):
        cut = ids.index(end) if end in ids else 20
        assert (each.ids, each.reason) == (ids[:cut], "end" if cut < 20 else "length")
    cuts = [ids.index(end) if end in ids else 20 for ids in whole]
    assert sizes == [sum(cut > done for cut in cuts) for done in range(19) if any(cut > done for cut in cuts)]
    assert len(set(sizes)) > 1


def test_the_model_says_which_tokens_end_a_text() -> None:
    model = language_model()
    first = generate(model, [PROMPTS[0]], max_new_tokens=5, sampling=Sampling(greedy=True))[0].ids
    model.config = dataclasses.replace(model.config, end_ids=(first[3],))
    found = generate(model, [PROMPTS[0]], max_new_tokens=5, sampling=Sampling(greedy=True))[0]
    assert found == Generation(first[: first.index(first[3])], None, "end")
    assert generate(model, [PROMPTS[0]], max_new_tokens=5, sampling=Sampling(greedy=True), end_ids=())[0].ids == first


def test_constants_are_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model, calls, constants = language_model(), [], LanguageModel.constants
    monkeypatch.setattr(LanguageModel, "constants", lambda self, **o: calls.append(1) or constants(self, **o))
    generate(model, PROMPTS, max_new_tokens=6)
    assert len(calls) == 1


def test_the_penalty_sees_prompt_and_text() -> None:
    model = language_model()
    prompts = [[3, 4], [5]]
    options = {"max_new_tokens": 30, "sampling": Sampling(greedy=True, repetition_penalty=1e9)}
    for prompt, each in zip(prompts, generate(model, prompts, **options), strict=True):
        ids = [*prompt, *each.ids]
        assert len(set(ids)) == len(ids)
    free = generate(model, prompts, max_new_tokens=60, sampling=Sampling(greedy=True))
    assert any(len(set(each.ids)) < 60 for each in free)


class Scripted(LanguageModel):
    """A model that says what it is told, whatever the prompt."""

    def told(self, text: str, times: int = 1) -> "Scripted":
        self.script, self.at = list(text.encode()) * times, 0
        return self

    def logits(self, h: torch.Tensor) -> torch.Tensor:
        values = torch.zeros(*h.shape[:-1], 257)
        values[..., self.script[self.at]] = 100.0
        self.at += 1
        return values


def says(text: str, *, stop: tuple[str, ...] = (), length: int = 100, ends: bool = True) -> tuple[Generation, list]:
    torch.manual_seed(0)
    config = LanguageModelConfig(vocabulary_size=257, end_ids=(256,), backbone=BackboneConfig(4, 1))
    model, told = Scripted(config).eval().told(text), []
    model.script += [256] if ends else [65] * length
    found = generate(
        model,
        [[1]],
        max_new_tokens=length,
        stop=stop,
        tokenizer=ByteTokenizer(),
        on_token=lambda *event: told.append(event),
    )
    return found[0], told


def test_text_comes_in_whole_characters_and_all_of_it() -> None:
    found, told = says("né 🎉\n")
    assert found == Generation(tuple("né 🎉\n".encode()), "né 🎉\n", "end")
    assert [event[2] for event in told] == ["n", "", "é", " ", "", "", "", "🎉", "\n"]
    assert [event[1] for event in told] == list("né 🎉\n".encode())
    cut, told = says("n🎉", length=3)
    assert (cut.text, cut.reason) == ("n\ufffd", "length")
    assert told[-1] == (0, None, "\ufffd")


def test_a_stop_string_ends_the_text_before_it() -> None:
    found, told = says("one\n\ntwo", stop=("\n\n", "wo"))
    assert (found.text, found.reason) == ("one", "stop")
    assert found.ids == tuple(b"one\n\n")
    assert "".join(event[2] for event in told) == "one"
    # what looked like one and was none comes out, also at the very end
    found, told = says("a\nb\n", stop=("\n\n",))
    assert (found.text, found.reason) == ("a\nb\n", "end")
    assert [event[2] for event in told] == ["a", "", "\nb", "", "\n"]
    assert says("abcabd", stop=("abd",))[0].text == "abc"
    assert says("aab", stop=("ab",))[0].text == "a"
    assert says("x", stop=("x",))[0] == Generation((120,), "", "stop")
    assert says("abc", stop=("bc", "c"), length=3)[0].text == "a"


def test_a_stop_stream_says_nothing_after_its_end() -> None:
    stream = StopStream(ByteTokenizer().stream(), ["b"])
    assert [stream.push(token) for token in b"abc"] == ["a", "", ""]
    assert (stream.finish(), stream.stopped) == ("", True)


def test_what_cannot_be_generated_is_refused() -> None:
    model = language_model()

    def refused(text: str, prompts=([1],), model=model, **options: object) -> None:
        with pytest.raises(InputError, match=text):
            generate(model, prompts, **options)

    refused("prompt 1 is empty, but the first token has to come from something; begin it with", ([1], []))
    refused("there is no prompt, but one at least is needed", ())
    refused("`prompts` holds the token 256, but tokens from 0 to 255 are needed", ([256],))
    refused("`prompts` holds the token -1, but tokens from 0 to 255", ([3, -1],))
    refused("`max_new_tokens` is 0, but a positive integer is needed", max_new_tokens=0)
    refused("`prefill` is -4, but a positive integer is needed", prefill=-4)
    refused(r"`stop` is \['x'\] without a tokenizer, but strings are found in text only", stop=["x"])
    refused("`stop` holds an empty string", stop=[""], tokenizer=ByteTokenizer())
    refused("`model` is in training mode", model=language_model().train())


@pytest.mark.parametrize("stack", STACKS)
def test_a_draft_is_taken_back_as_far_as_it_is_wrong(stack: str) -> None:
    model = language_model(stack)
    ids, lengths = torch.tensor([[5, 6, 7], [8, 9, 0], [1, 0, 0]]), torch.tensor([3, 2, 1])
    logits, state = read_prompts(model, ids, lengths)
    prompts = [row[:length].tolist() for row, length in zip(ids, lengths, strict=True)]
    right = torch.tensor([greedy(model, prompt, 6) for prompt in prompts])
    for wrong in ((6, 6, 6), (0, 0, 0), (2, 6, 0), (5, 1, 3)):
        draft = right.clone()
        for row, place in enumerate(wrong):
            draft[row, place:] = (draft[row, place:] + 1) % 256
        found = verify_draft(model, state, logits, draft)
        assert found.accepted.tolist() == list(wrong)
        for row, count in enumerate(wrong):  # the same row, step by step
            alone = select_rows(state, torch.tensor([row]))
            after = logits[row : row + 1]
            with torch.no_grad():
                for token in draft[row, :count]:
                    after, alone = model.step(token[None], alone)
            torch.testing.assert_close(found.logits[row : row + 1], after, rtol=1e-9, atol=1e-9)
            told = select_rows(found.state, torch.tensor([row]))
            with torch.no_grad():
                for token in (17, 200, 3):
                    one, told = model.step(torch.tensor([token]), told)
                    other, alone = model.step(torch.tensor([token]), alone)
                    torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


def test_a_draft_of_nothing_is_refused() -> None:
    model = language_model()
    logits, state = read_prompts(model, torch.tensor([[1]]), torch.tensor([1]))
    with pytest.raises(InputError, match=r"`draft` has shape \(1, 0\) beside logits of 1 rows, but one guess at least"):
        verify_draft(model, state, logits, torch.zeros(1, 0, dtype=torch.int64))
    with pytest.raises(InputError, match="`draft` holds the token 256"):
        verify_draft(model, state, logits, torch.tensor([[256]]))


@pytest.mark.parametrize("stack", STACKS)
def test_beams_are_rows_of_a_state(stack: str) -> None:
    model = language_model(stack)
    ids, lengths = torch.tensor([[5, 6, 7], [8, 9, 0]]), torch.tensor([3, 2])
    _, state = read_prompts(model, ids, lengths)
    beams = select_rows(state, torch.tensor([1, 1, 0, 1]))
    tokens = torch.tensor([10, 20, 30, 40])
    with torch.no_grad():
        found, _ = model.step(tokens, beams)
        for logits, prompt, token in zip(found, ([8, 9], [8, 9], [5, 6, 7], [8, 9]), tokens.tolist(), strict=True):
            whole = model(torch.tensor([[*prompt, token]]))[0, -1]
            torch.testing.assert_close(logits, whole, rtol=1e-9, atol=1e-9)


def test_reading_goes_on_from_a_state() -> None:
    model = language_model("hybrid")
    ids, lengths = torch.tensor([[5, 6, 7, 8], [8, 9, 0, 0]]), torch.tensor([4, 2])
    whole, _ = read_prompts(model, ids, lengths, prefill=3)
    _, state = read_prompts(model, ids[:, :1], torch.tensor([1, 1]))
    again, _ = read_prompts(model, ids[:, 1:], lengths - 1, state=state)
    torch.testing.assert_close(whole, again, rtol=1e-9, atol=1e-9)
    with pytest.raises(InputError, match="the prompts are empty, but one token at least is needed"):
        read_prompts(model, ids[:, :0], torch.zeros(2, dtype=torch.int64))
