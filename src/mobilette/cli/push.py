"""``mobilette push``: a run or an artifact to Hugging Face's hub."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mobilette.cli.options import Json
from mobilette.cli.report import Licence, check_licence
from mobilette.errors import InputError
from mobilette.progress import Reporter


def push(
    subject: Annotated[Path, typer.Argument(help="A run or an artifact.", metavar="RUN|ARTIFACT")],
    to: Annotated[str, typer.Argument(help="Destination: hf://OWNER/NAME.", metavar="ADDRESS")],
    data: Annotated[
        str | None, typer.Option("--data", help="Images to measure on for the card.")
    ] = None,
    card: Annotated[
        Path | None,
        typer.Option(
            "--card", help="A card of your own [that of 'report --card'].", metavar="FILE"
        ),
    ] = None,
    licence: Licence = None,
    private: Annotated[
        bool, typer.Option("--private", help="Make a new repository private.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Upload a run or an artifact to Hugging Face's hub, with a card.

    Needs the extra hub and, in HF_TOKEN, a token that may write.
    """
    from mobilette.cli.output import print_json, remarks, say
    from mobilette.files import LARGEST_RECORD, read_bytes
    from mobilette.formats.hub import parse_address
    from mobilette.reporting.model_card import model_card
    from mobilette.reporting.report import report
    from mobilette.workflows.push import content_of, make_model
    from mobilette.workflows.push import push as upload

    check_licence(licence)
    address = parse_address(to)
    if card is not None and (licence is not None or data is not None):
        raise InputError("--card has all of the card; it takes neither --license nor --data")
    # What is wrong with it, or with the token, is said before anything is measured.
    content_of(subject)
    text = "" if card is None else read_bytes(card, limit=LARGEST_RECORD).decode(errors="replace")
    make_model(to, private=private)
    if card is None:
        remarked: list[str] = []
        found = report(subject, data, reporter=Reporter(remark=remarked.append))
        for line in remarked:
            remarks().print(line)
        text = model_card(found, licence=licence, address=str(address))
    done = upload(subject, to, card=text, private=private)
    if as_json:
        print_json(done.to_json())
    else:
        say(f"{done.address}: {len(done.files)} files")
    remarks().print(f"written: {done.url}")
