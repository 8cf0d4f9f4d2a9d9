"""The proposer that asks a language model: a loop of tool calls, or one prompt, to a validated candidate and a lesson.

A model that calls tools reads the campaign's record with those of `agent_tools.py` and ends its turn with `propose`; any
other gets the same in one prompt and answers with JSON. The prompts are Markdown files in `prompts/`; their hash, the
user's brief included, is recorded with each proposal. What the model answers becomes parameters through
`SearchSpace.overlay` alone, and a rationale and lessons that are shown as claims. It is never formatted, executed or put
into a configuration. The model itself is behind `ports.LanguageModel` (`llm.py`), which keeps the budget.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from typing import Any, Literal

from evolve import patches, suite
from evolve.agent_text import SCALES, Sharing, clean, clean_lines, describe, fill, lines, quote
from evolve.agent_tools import READ, BadCall, Insight, Tools, read_arguments, schema
from evolve.edits import Harness
from evolve.errors import InvalidCandidate, ModelFailed, ProposerFailed
from evolve.llm import estimate_tokens
from evolve.memory import Evaluations, View
from evolve.ports import Completion, LanguageModel, ToolCall
from evolve.space import SearchSpace, extended
from evolve.types import Candidate, EvalProposal, Message, Proposal, Spend, digest

TEMPLATES = ("system", "single", "loop", "turn", "record", "memory", "repair", "repair_loop", "tools", "edits",
             "evaluations")  # fmt: skip
_LESSON_CHARS, _MOST_LESSONS = 300, 2
_RATIONALE_CHARS, _REASON_CHARS, _ANSWER_CHARS = 1000, 1000, 2000
MOST_RESULT_CHARS = 4000  # of one tool's answer
_RECORD_CHARS, _CALLS_AT_ONCE = 8000, 8
_SCANNED_CHARS, _SCANNED_OBJECTS = 100_000, 200
_PROPOSING = 2  # calls at the end of a turn that may only propose: one, and its repair

Style = Literal["auto", "tools", "single"]
Messages = list[dict[str, Any]]


@dataclass(frozen=True)
class AgentSettings:
    """How a turn goes.

    `max_calls`: of the model in one turn of the tool style (at least 2); a single prompt has two, the second for repair.
    `context_tokens`: at most, estimated from above, in one request: messages and schemas, without the answer.
    `brief`: the user's own instructions, told as they are.
    """

    style: Style = "auto"
    max_calls: int = 6
    context_tokens: int = 24_000
    sharing: Sharing = field(default_factory=Sharing)
    brief: str = ""


class AgentProposer:
    """A language model as `ports.Proposer`: its answer is a change of the incumbent, with a reason.

    An answer that cannot be used (prose, cut, wrong types, unknown names, out of range, tried before) is sent back
    once with the exact reason; a second one is a `ProposerFailed` that carries what all calls cost. Lessons are kept in
    both cases.

    Args:
        insight: what the sampler thinks of a view.
        files: name -> text of the subject's editable files.
        harness: what may be edited; None where edits are refused.
        evaluations: whether it is told that it may propose evaluations, where the view takes them.
    """

    instant = False

    def __init__(
        self,
        model: LanguageModel,
        name: str = "agent",
        settings: AgentSettings | None = None,
        insight: Callable[[View], Insight] = lambda view: Insight(),
        files: Mapping[str, str] | None = None,
        harness: Harness | None = None,
        evaluations: bool = False,
    ) -> None:
        self._evaluations = evaluations
        self.name, self._model, self.settings = name, model, settings or AgentSettings()
        self._harness = harness if self.settings.sharing.code else None  # who may not see the code cannot edit it
        self._insight, self._files = insight, files or {}
        folder = resources.files("evolve") / "prompts"
        self._templates = {t: (folder / f"{t}.md").read_text(encoding="utf-8") for t in TEMPLATES}
        self.prompt_hash = digest({**self._templates, "brief": self.settings.brief})

    @property
    def calls_tools(self) -> bool:
        """Whether a turn is a loop of tool calls."""
        style = self.settings.style
        return style == "tools" or (style == "auto" and self._model.calls_tools)

    def propose(self, view: View) -> Proposal:
        turn = _Turn(self, view)
        return turn.loop() if self.calls_tools else turn.single()

    # ------------------------------------------------ what is sent

    def evaluations(self, view: View) -> Evaluations | None:
        """What is known of proposed evaluations; None where this turn may not propose one."""
        return view.evaluations if self._evaluations else None

    def tools(self, view: View) -> Tools:
        files = patches.patched(self._files, view.patch) if view.patch else self._files
        return Tools(view, self.settings.sharing, self._insight, files)

    def messages(self, view: View, tools: Tools | None = None) -> Messages:
        """Exactly what would be sent first for `view`. Its size is bounded whatever the length of the history.

        Raises `ProposerFailed` where even the smallest does not fit into `context_tokens`.
        """
        # The tool style leaves half of the room for answers.
        room = self.settings.context_tokens // (2 if self.calls_tools else 1)
        sent = self.schemas(view) if self.calls_tools else [self.answer_schema(view)]
        for scale in SCALES:
            messages = self._at(view, scale, tools or self.tools(view))
            size = tokens(messages, sent)
            if size <= room:
                return messages
        need = size * (2 if self.calls_tools else 1)
        raise ProposerFailed(
            f"agent.context_tokens must hold the smallest prompt, about {need} tokens, but is"
            f" {self.settings.context_tokens}; raise it.",
            self.name,
        )

    def _at(self, view: View, scale: float, tools: Tools) -> Messages:
        templates, sharing = self._templates, self.settings.sharing
        values = describe(view, sharing, scale)
        values["memory"] = fill(templates["memory"], values) if sharing.lessons else ""
        values["brief"] = f"\n# Brief of the user\n\n{self.settings.brief}\n" if self.settings.brief else ""
        values["record"] = values["evaluations"] = ""
        if not self.calls_tools:
            values["answers"] = tools.everything(round(_RECORD_CHARS * max(scale, 0.1)))
            values["record"] = fill(templates["record"], values)
        system = templates["system"] + templates["loop" if self.calls_tools else "single"]
        system = fill(system, {"calls": str(self.settings.max_calls)})
        if self._harness is not None:
            names = ", ".join(clean(n, 100) for n in self._harness.files)
            menu = lines(f"{quote(e.name, 100)}: {clean(e.source, 200)}" for e in self._harness.ready)
            system += fill(templates["edits"], {"editable": names, "menu": menu})
        if (evaluations := self.evaluations(view)) is not None:
            told = lines(quote(x, 300) for x in evaluations.told)
            how = "the tool `propose_evaluation`" if self.calls_tools else "the key `evaluation` of your answer"
            taken = ", ".join(sorted(evaluations.taken))
            system += fill(templates["evaluations"], {"how": how, "taken": clean(taken, 500)})
            values["evaluations"] = f"\n# Evaluations that were proposed\n\n{told}\n" if evaluations.told else ""
        return [{"role": "system", "content": system}, {"role": "user", "content": fill(templates["turn"], values)}]

    def schemas(self, view: View, proposing: bool = False) -> list[dict[str, Any]]:
        """The tools as the model gets them; `proposing`: those that end a turn alone."""
        found = re.split(r"^# (\w+)\n", self._templates["tools"], flags=re.MULTILINE)[1:]
        descriptions = {name: " ".join(text.split()) for name, text in zip(found[::2], found[1::2], strict=True)}
        arguments = self.answer_schema(view)["properties"]
        own = {
            "write_lesson": ({"text": {"type": "string"}}, ("text",)),
            "propose": ({k: a for k, a in arguments.items() if k != "lesson"}, ("changes", "rationale")),
        }
        names = [] if proposing else self.tools(view).names
        if not proposing and self.evaluations(view) is not None:
            own["propose_evaluation"] = (_EVALUATION, tuple(_EVALUATION))
        return [schema(n, descriptions[n], *(READ | own)[n]) for n in (*names, *own)]

    def answer_schema(self, view: View) -> dict[str, Any]:
        """JSON schema of an answer in text."""
        schema = answer_schema(view.space)
        if self._harness is not None:
            schema["properties"]["edit"] = _EDIT_SCHEMA
        if self.evaluations(view) is not None and not self.calls_tools:
            schema["properties"]["evaluation"] = {
                "type": "object", "properties": _EVALUATION, "required": list(_EVALUATION), "additionalProperties": False,
            }  # fmt: skip
        return schema

    def repair(self, reason: str) -> str:
        template = self._templates["repair_loop" if self.calls_tools else "repair"]
        return fill(template, {"reason": json.dumps(reason)})


class _Turn:
    """One proposal in the making: its messages so far, what they cost, what was learned."""

    def __init__(self, agent: AgentProposer, view: View) -> None:
        self.agent, self.view, self.model = agent, view, agent._model
        self.tools = agent.tools(view)
        self.messages = agent.messages(view, self.tools)
        self.spent, self.lessons, self.errors = Spend(), list[str](), list[str]()
        self.evaluations = list[EvalProposal]()

    def single(self) -> Proposal:
        """One prompt with everything, one answer, one repair."""
        while True:
            completion = self._call(self.agent.answer_schema(self.view), ())
            # Some providers refuse an empty message.
            self._say("assistant", clean(completion.text, _ANSWER_CHARS) or "(nothing)")
            try:
                return self._read(completion)
            except InvalidCandidate as error:
                self._say("user", self._wrong(str(error)))

    def loop(self) -> Proposal:
        """Tool calls until a valid `propose`, a second invalid one, or `max_calls`."""
        for left in range(self.agent.settings.max_calls, 0, -1):
            schemas = self.agent.schemas(self.view, proposing=left <= _PROPOSING)
            self._make_room(schemas)
            completion = self._call(None, schemas)
            self.messages.append(_message(completion))
            proposal = None
            try:
                if not completion.tool_calls or completion.truncated:
                    return self._read(completion)
            except InvalidCandidate as error:
                self._refuse_calls(completion.tool_calls)
                self._say("user", self._wrong(str(error)))
                continue
            for number, call in enumerate(completion.tool_calls):
                answer, found = self._answer(call, left - 1, number, schemas)
                proposal = proposal or found
                self.messages.append({"role": "tool", "tool_call_id": call.id, "content": answer})
            if proposal is not None:
                return self._proposal(*proposal, completion.model)
        raise self._failed(
            f"a turn must end with `propose` within agent.max_calls={self.agent.settings.max_calls} calls"
        )

    # ------------------------------------------------ steps

    def _call(self, schema: Mapping[str, Any] | None, tools: Sequence[Mapping[str, Any]]) -> Completion:
        try:
            completion = self.model.complete(list(self.messages), schema, tools)
        except ModelFailed as error:
            self.spent += error.spend
            raise self._failed(str(error), plain=True) from error
        self.spent += completion.spend
        return completion

    def _say(self, role: str, text: str) -> None:
        self.messages = [*self.messages, {"role": role, "content": text}]

    def _read(self, completion: Completion) -> Proposal:
        if completion.truncated:
            raise InvalidCandidate("An answer must be whole, but it was cut at agent.max_tokens; be brief.")
        answer = read_object(completion.text)
        candidate, rationale, lesson = check_answer(answer, self.view, self.agent._harness)
        if answer.get("evaluation") is not None and not self.agent.calls_tools:
            with contextlib.suppress(BadCall):  # the candidate does not depend on it; the journal has what was wrong
                self._evaluate(answer["evaluation"], keep=True)
        if lesson:
            self.lessons = [*self.lessons, lesson][:_MOST_LESSONS]
        return self._proposal(candidate, rationale, completion.model)

    def _answer(
        self, call: ToolCall, left: int, number: int, schemas: Sequence[Mapping[str, Any]]
    ) -> tuple[str, tuple[Candidate, str] | None]:
        """The answer to one call, and the candidate where it was a valid `propose`."""
        try:
            if call.name == "propose":
                given = _object(call.arguments)
                candidate, rationale, _ = check_answer(given, self.view, self.agent._harness)
                return '{"ok": true}', (candidate, rationale)
            if number >= _CALLS_AT_ONCE:
                raise BadCall(f"At most {_CALLS_AT_ONCE} tools may be called at once; call this one again.")
            if call.name == "write_lesson":
                return self._learn(
                    read_arguments(call.arguments, {"text": {"type": "string"}}, ("text",))["text"]
                ), None
            if left < _PROPOSING:
                raise BadCall("There is no call left to read with; call `propose` now.")
            if call.name == "propose_evaluation" and self.agent.evaluations(self.view) is not None:
                return self._evaluate(read_arguments(call.arguments, _EVALUATION, tuple(_EVALUATION))), None
            room = self.agent.settings.context_tokens - tokens(self.messages, schemas)
            limit = min(MOST_RESULT_CHARS, room)
            if limit < 200:
                raise BadCall("There is no room left in agent.context_tokens; call `propose` now.")
            answer = self.tools.answer(call.name, call.arguments, limit)
            while len(answer) > 200 and tokens([{"content": answer}], ()) > room:  # not every character is cheap
                limit //= 2
                answer = self.tools.answer(call.name, call.arguments, limit)
            return answer, None
        except InvalidCandidate as error:
            return json.dumps({"error": self._wrong(str(error), told=False)}), None
        except BadCall as error:
            return json.dumps({"error": clean(str(error), _REASON_CHARS)}), None

    def _learn(self, text: str) -> str:
        if len(self.lessons) >= _MOST_LESSONS:
            raise BadCall(f"A turn may write {_MOST_LESSONS} lessons; call `propose` now.")
        if lesson := clean(text, _LESSON_CHARS):
            self.lessons.append(lesson)
        return '{"ok": true}'

    def _evaluate(self, raw: Mapping[str, Any], keep: bool = False) -> str:
        """Takes an evaluation, one a turn; the turn goes on. Raises `BadCall`; with `keep` what is wrong is kept as well."""
        known = self.agent.evaluations(self.view)
        if known is None:
            raise BadCall("Evaluations are not taken in this campaign; leave it.")
        if self.evaluations:
            raise BadCall("A turn may propose one evaluation; call `propose` now.")
        proposal, wrong = suite.read(raw, self.agent.name, self.model.name)
        try:
            if wrong:
                raise InvalidCandidate(wrong)
            suite.check(proposal, known.taken, known.known)
        except InvalidCandidate as error:
            if keep:
                self.evaluations.append(proposal)
            raise BadCall(str(error)) from error
        self.evaluations.append(proposal)
        return '{"ok": true, "next": "it is tried in the sandbox; you are told what came of it. Now `propose` a candidate."}'

    def _wrong(self, reason: str, told: bool = True) -> str:
        """What is said to an answer that cannot be used. Raises `ProposerFailed` at the second one."""
        self.errors.append(clean_lines(reason, _REASON_CHARS))
        if len(self.errors) > 1:
            raise self._failed(f"after one repair round: {self.errors[-1]}")
        return self.agent.repair(self.errors[-1]) if told else self.errors[-1]

    def _refuse_calls(self, calls: Iterable[ToolCall]) -> None:
        """Every call that stands among the messages needs an answer."""
        for call in calls:
            self.messages.append({"role": "tool", "tool_call_id": call.id, "content": '{"error": "not carried out"}'})

    def _make_room(self, schemas: Sequence[Mapping[str, Any]]) -> None:
        """Drops the oldest answers of tools where the next request would be too long."""
        for i, message in enumerate(self.messages):
            if tokens(self.messages, schemas) <= self.agent.settings.context_tokens:
                return
            if message["role"] == "tool":
                self.messages[i] = {**message, "content": '{"left_out": "everything: no room"}'}
        if tokens(self.messages, schemas) > self.agent.settings.context_tokens:
            raise self._failed("a turn must fit agent.context_tokens, and this one does not; raise it")

    def _proposal(self, candidate: Candidate, rationale: str, model: str) -> Proposal:
        view = self.view
        return Proposal(
            candidate,
            self.agent.name,
            rationale,
            (view.incumbent_id,),
            prompt_hash=self.agent.prompt_hash,
            model=model,
            spend=self.spent,
            transcript=transcript(self.messages),
            lessons=tuple(self.lessons),
            evaluations=tuple(self.evaluations),
        )

    def _failed(self, reason: str, plain: bool = False) -> ProposerFailed:
        text = clean(reason, _REASON_CHARS)
        text = text if plain else f"{self.model.name} must give a valid answer, but {text}"
        said = transcript(self.messages)
        return ProposerFailed(text, self.agent.name, self.spent, said, tuple(self.lessons), tuple(self.evaluations))


def tokens(messages: Sequence[Mapping[str, Any]], schemas: Sequence[Mapping[str, Any]]) -> int:
    """An upper bound of the tokens of a request, tool calls and schemas included; see `llm.estimate_tokens`."""
    texts = [{"content": str(m.get("content", "")) + json.dumps(m.get("tool_calls", ""))} for m in messages]
    return estimate_tokens([*texts, {"content": json.dumps(list(schemas))}])


def transcript(messages: Sequence[Mapping[str, Any]]) -> tuple[Message, ...]:
    """What was said after the system prompt, for the record; a call of a tool as JSON behind its message's text."""
    said = []
    for m in messages:
        calls = [c["function"] for c in m.get("tool_calls", ())]
        text = str(m["content"]) + (json.dumps(calls, ensure_ascii=False) if calls else "")
        said.append(Message(str(m["role"]), text))
    return tuple(m for m in said if m.role != "system")


def _message(completion: Completion) -> dict[str, Any]:
    """The answer as it goes back with the next call: bounded, and with arguments that parse, as providers demand."""
    message = completion.message
    message["content"] = clean(completion.text, _ANSWER_CHARS) or ("" if completion.tool_calls else "(nothing)")
    for call in message.get("tool_calls", ()):
        function, text = call["function"], str(call["function"]["arguments"])
        function["name"] = re.sub(r"[^\w-]", "_", function["name"])[:64] or "unnamed"
        try:
            whole = len(text) <= _ANSWER_CHARS and isinstance(json.loads(text, parse_constant=_no_constant), dict)
        except (ValueError, RecursionError):
            whole = False
        function["arguments"] = text if whole else json.dumps({"unusable": clean(text, 200)})
    return message


# ---------------------------------------------------------------- the answer


def read_answer(text: str, view: View, harness: Harness | None = None) -> tuple[Candidate, str, str]:
    """Candidate, rationale and lesson ("" without one) of a model's answer.

    Raises `InvalidCandidate` with a reason that the model can act on.
    """
    return check_answer(read_object(text), view, harness)


def read_object(text: str) -> dict[str, Any]:
    """The JSON object of an answer. Raises `InvalidCandidate`."""
    answer = first_object(text)
    if answer is None:
        raise InvalidCandidate("An answer must hold one whole JSON object, but there is none; send only the object.")
    return answer


def _object(arguments: str) -> dict[str, Any]:
    """The arguments of `propose`, by the same rules as an answer in text."""
    answer = first_object(arguments)
    if answer is None:
        raise InvalidCandidate(
            "Arguments must be one whole JSON object, but there is none; send changes and rationale."
        )
    return answer


def check_answer(answer: Mapping[str, Any], view: View, harness: Harness | None = None) -> tuple[Candidate, str, str]:
    """As `read_answer`, of the parsed object."""
    changed, rationale, lesson = answer.get("changes"), answer.get("rationale"), answer.get("lesson")
    if not isinstance(changed, dict):
        raise InvalidCandidate(f'"changes" must be an object, but is {_json_type(changed)}; write name: value.')
    if not isinstance(rationale, str):
        raise InvalidCandidate(f'"rationale" must be text, but is {_json_type(rationale)}; write one sentence.')
    if lesson is not None and not isinstance(lesson, str):
        raise InvalidCandidate(f'"lesson" must be text, but is {_json_type(lesson)}; write one sentence.')
    patch, declared, space = view.patch, view.declared, view.space
    if answer.get("edit") is not None:
        if harness is None:
            raise InvalidCandidate("Edits of the harness are not taken in this campaign; leave `edit` out.")
        patch, new = harness.read(answer["edit"], view.patch)
        declared, space = {**view.declared, **new}, extended(view.space.parameters, new)
    params = space.overlay(view.incumbent, changed)
    for o in view.history:
        if dict(o.params) == params and o.patch == patch:
            same = "the same edit and parameters" if patch != view.patch else "the same parameters"
            raise InvalidCandidate(
                f"A candidate must be new, but {o.candidate_id} has {same} ({o.state}); change another."
            )
        if patch is not None and o.patch == patch and o.outcome.startswith("not trained"):
            raise InvalidCandidate(f"An edit must be new, but that of {o.candidate_id} failed a check: {o.error}")
    if any(dict(s.candidate.params) == params and s.candidate.patch == patch for s in view.suggestions):
        raise InvalidCandidate("A candidate must be new, but this one waits to be tried already; change another.")
    return (
        Candidate(params, view.subject_version, patch, declared),
        clean(rationale, _RATIONALE_CHARS),
        clean(lesson or "", _LESSON_CHARS),
    )


def _json_type(value: object) -> str:
    return "missing" if value is None else type(value).__name__


def first_object(text: str) -> dict[str, Any] | None:
    """The first balanced JSON object in `text` that has "changes", else the first one of all; None without any.

    The inner parts of an object that was cut are not taken for the answer.

    >>> first_object('Sure! {"changes": {}} or {"changes": {"a": 1}}')
    {'changes': {}}
    """
    decoder = json.JSONDecoder(parse_constant=_no_constant, parse_int=_integer)
    text, position, first, cut = text[:_SCANNED_CHARS].rstrip(), 0, None, False
    for _ in range(_SCANNED_OBJECTS):
        start = text.find("{", position)
        if start < 0:
            break
        try:
            value, position = decoder.raw_decode(text, start)
        except json.JSONDecodeError as error:
            cut = cut or error.pos >= len(text) or error.msg.startswith("Unterminated")
            position = start + 1
            continue
        except (ValueError, RecursionError):
            position = start + 1
            continue
        if "changes" in value:
            return dict(value)
        first = first or value
    return None if cut else first


def _no_constant(word: str) -> float:
    raise ValueError(f"{word} is not JSON")


def _integer(digits: str) -> int | float:
    return int(digits) if len(digits) <= 18 else float(digits)  # 400 digits become inf, which no range admits


_EVALUATION: dict[str, Any] = {
    "name": {"type": "string"},
    "form": {"type": "string", "enum": list(suite.FORMS)},
    "code": {"type": "string"},
    "rationale": {"type": "string"},
}
_BLOCK = {"type": "object", "properties": {key: {"type": "string"} for key in ("file", "search", "replace")},
          "required": ["file", "search", "replace"], "additionalProperties": False}  # fmt: skip
_EDIT_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "ready": {"type": "string"},
        "blocks": {"type": "array", "items": _BLOCK},
        "diff": {"type": "string"},
        "files": {"type": "object"},
        "parameters": {"type": "object"},
    },
    "additionalProperties": False,
}


def answer_schema(space: SearchSpace) -> dict[str, Any]:
    """JSON schema of an answer. Its ranges are a hint, which `llm.py` keeps from providers whose schemas know none."""
    kinds = {"float": "number", "int": "integer"}
    properties: dict[str, Any] = {}
    for n, p in space.parameters.items():
        if p.type == "categorical":
            properties[n] = {"enum": list(p.choices)}
        else:
            properties[n] = {"type": kinds[p.type], "minimum": p.low, "maximum": p.high}
            properties[n] |= {"multipleOf": p.step} if p.step else {}
        if p.when:
            properties[n]["description"] = "only where " + " and ".join(f"{k} in {list(v)}" for k, v in p.when.items())
    return {
        "type": "object",
        "properties": {
            "lesson": {"type": "string"},
            "changes": {"type": "object", "properties": properties, "additionalProperties": False},
            "rationale": {"type": "string"},
        },
        "required": ["changes", "rationale"],
        "additionalProperties": False,
    }
