"""The command `imagetask push`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from imagetask.settings import RunSettings

from .terminal import DONE, if_interrupted, quiet, say


def push(
    folder: Annotated[Path, Parameter(help="Folder of the dataset.")],
    repo: Annotated[str, Parameter(help="Dataset on the Hub: OWNER/NAME.")],
    /,
    *,
    public: Annotated[bool, Parameter(help="A dataset that is new may be seen by everyone.", negative=())] = False,
    replace: Annotated[
        bool,
        Parameter(help="Take the place of another dataset of imagetask, whose folder was lost, say.", negative=()),
    ] = False,
    hub_credentials: Annotated[
        str | None, Parameter(help="Name of a saved block with a Hub token; default: HF_TOKEN.")
    ] = None,
) -> int:
    """Push the finished dataset in FOLDER to the Hub, or bring it up to date there.

    One commit, made when all files are up; what is there already is not sent again. The same command goes on after
    whatever stopped it.
    """
    RunSettings.checked(source="", out=folder, hub_credentials=hub_credentials)
    quiet()
    from imagetask.layout import Layout, alone_in
    from imagetask.push import check_folder, check_name
    from imagetask.push import push as push_dataset

    from ..hub_credentials import hub_token

    check_name(repo)
    layout = Layout(folder.absolute())
    check_folder(layout)
    token = hub_token(hub_credentials)
    with alone_in(layout), if_interrupted("Interrupted. What was sent is kept; the same command goes on."):
        pushed = push_dataset(layout, repo, token=token, private=not public, replace=replace, told=say)
    if pushed.commit is None:
        say(f"nothing is new: {pushed.url}")
    else:
        say(f"pushed {pushed.files} files, {pushed.num_bytes / 1e6:,.1f} MB: {pushed.url}")
    say(f"load it:  datasets.load_dataset({repo!r})")
    return DONE
