"""assemble(): ``trace.json``, once all shards are written, and the rows that the target lends."""

from __future__ import annotations

import platform
from collections.abc import Sequence

from quark_eagle import __version__
from quark_eagle.trace.session import Session
from quark_eagle.trace.trace_document import ShardInfo, TraceDocument, TracedPromptInfo
from quark_eagle.trace.trace_writer import TraceWriter, first_places


def assemble(session: Session, writer: TraceWriter, command_line: Sequence[str]) -> TraceDocument:
    """The trace's document, from what the shards' headers say; writes the rows that the target lends."""
    import torch

    infos: dict[int, TracedPromptInfo] = {}
    for number, batch in enumerate(session.batches):
        infos.update(zip(batch, _infos(session, writer, number), strict=True))
    files = [writer.file_info(writer.shard_name(number)) for number in range(len(session.batches))]
    engine = dict(session.target.provenance)
    return TraceDocument(
        target=session.target.id,
        sampling=session.options.sampling,
        states=session.states,
        prompts=tuple(infos[i] for i in range(len(session.requests))),
        prompts_sha256=session.prompts.sha256,
        shards=(*files, *_write_rows(session, writer)),
        row_names=session.row_names,
        provenance={
            "prompts": {
                "source": session.prompts.source,
                "num_prompts": len(session.prompts),
                "categories": session.prompts.categories,
            },
            "draft": str(session.draft.directory),
            "versions": {
                "quark_eagle": __version__,
                "torch": str(torch.__version__),
                "python": platform.python_version(),
                **engine.pop("versions"),
            },
            "batch_size": max(map(len, session.batches)),
            "command_line": list(command_line),
            **engine,
        },
    )


def _infos(session: Session, writer: TraceWriter, number: int) -> list[TracedPromptInfo]:
    """What trace.json says about the prompts of one shard."""
    batch, name = session.batches[number], writer.shard_name(number)
    recorded = writer.metadata(name)["num_tokens_and_stop_reason"]
    lengths = [length for length, _ in recorded]
    prompt_lengths = [len(session.requests[i].token_ids) for i in batch]
    generated = [n - p for n, p in zip(lengths, prompt_lengths, strict=True)]
    places = zip(first_places(lengths), first_places(generated), first_places([n - 1 for n in lengths]), strict=True)
    return [
        TracedPromptInfo(
            id=session.prompts.prompts[i].id,
            category=session.prompts.prompts[i].category,
            split=session.prompts.prompts[i].split,
            sha256=session.prompts.prompts[i].sha256,
            num_tokens=length,
            prompt_length=prompt_length,
            stop_reason=stop_reason,
            shard=name,
            first_token=token,
            first_generated=first_generated,
            first_row=row,
        )
        for i, (length, stop_reason), prompt_length, (token, first_generated, row) in zip(
            batch, recorded, prompt_lengths, places, strict=True
        )
    ]


def _write_rows(session: Session, writer: TraceWriter) -> list[ShardInfo]:
    import torch
    from safetensors import safe_open

    if not session.row_names:
        return []
    dtype = getattr(torch, session.options.state_dtype)
    tensors = {}
    if "embed_ids" in session.row_names:
        seen = torch.zeros(session.target.id.vocab_size, dtype=torch.bool)
        for number in range(len(session.batches)):
            with safe_open(writer.directory / writer.shard_name(number), framework="pt") as file:
                seen[file.get_tensor("token_ids")] = True
        tensors["embed_ids"] = seen.nonzero()[:, 0]
        tensors["embed_rows"] = session.target.embedding_rows(tensors["embed_ids"]).to(dtype)
    if "lm_head" in session.row_names:
        tensors["lm_head"] = session.target.head().to(dtype)
    writer.write(writer.rows_name, tensors, {})
    return [writer.file_info(writer.rows_name)]
