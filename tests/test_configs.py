"""Every YAML composes, and builds what it names."""

import inspect
import re
import shlex
from pathlib import Path

import pytest
from hydra.utils import get_class
from omegaconf import OmegaConf

from segagent.configuration import CONFIG_DIR, build, compose_config, load_named, names
from segagent.entry import expand_checkpoints

ENTRIES = sorted(path.stem for path in CONFIG_DIR.glob("*.yaml"))
# A preset is no constructor's arguments but settings of an entry (tests/test_presets.py), and so is a scale
# (tests/evaltools/test_tables.py). accelerate/: files for its launcher.
GROUPS = sorted(
    path.name for path in CONFIG_DIR.iterdir() if path.is_dir() and path.name not in ("accelerate", "preset", "scale")
)


def test_each_entry_has_a_script_and_each_script_an_entry():
    root = Path(__file__).resolve().parents[1]
    files = [*(root / "scripts").glob("*.py"), *(root / "evaltools").glob("*.py")]
    scripts = {path.stem for path in files if "run_entry(" in path.read_text()}
    assert scripts == set(ENTRIES)


@pytest.mark.parametrize("entry", ENTRIES)
def test_entries_compose_and_ask_for_their_output_only(entry):
    config = compose_config(entry)
    OmegaConf.resolve(config)
    assert OmegaConf.missing_keys(config) <= {"out", "trajectories", "data.trajectories", "models"}


@pytest.mark.parametrize("group, name", [(group, name) for group in GROUPS for name in names(group)])
def test_every_named_config_builds_or_says_what_it_needs(group, name):
    shared = {"seed": 0, "device": "cpu", "mllm": None}
    searched = {key: compose_config("evaluate")[key] for key in ("search", "proposer", "reward") if key != group}
    config = OmegaConf.merge(shared, searched, {group: load_named(group, name)})
    missing = OmegaConf.missing_keys(config)
    if missing:
        assert group == "data" or missing == {f"{group}.path"}, "only data, and members with weights, need paths"
        return
    try:
        built = build(config[group])
    except ValueError as error:
        assert "give data.root" in str(error) or "say mllm=NAME" in str(error)
    else:
        assert type(built).__module__.startswith("segagent.")


def groups_of(entry):
    """Those that an entry has; settings may bear a group's name without being of it."""
    config = compose_config(entry)
    members = {group: config[group] for group in GROUPS if group in config}
    return [group for group, settings in members.items() if settings is None or "_target_" in settings]


@pytest.mark.parametrize("entry, group", [(entry, group) for entry in ENTRIES for group in groups_of(entry)])
def test_entries_take_any_member_of_their_groups(entry, group):
    for name in names(group):
        assert compose_config(entry, [f"{group}={name}"])[group]["_target_"] == load_named(group, name)["_target_"]


_COMMAND = re.compile(r"(?:python|accelerate launch [^`\n]*?) (?:scripts|evaltools)/(\w+)\.py ([^`\n]*)")


def documented_commands():
    """Commands of the pages and of what the scripts say of themselves, folders of models aside."""
    root = CONFIG_DIR.parent
    pages = [root / "README.md", *(root / "docs").glob("*.md"), *(root / "scripts").glob("*.py")]
    for page in sorted([*pages, *(root / "evaltools").glob("*.py")]):
        text = re.sub(r"\\\n\s*", " ", page.read_text())
        for number, (entry, words) in enumerate(_COMMAND.findall(text)):
            given = [word for word in shlex.split(words, comments=True) if "=" in word and not word.startswith("[")]
            models = [f"mllm={name}" for name in names("mllm")]
            given = ["mllm=nano" if word.startswith("mllm=") and word not in models else word for word in given]
            if entry in ENTRIES and not {"data=NAME", "to=FORMAT"} & set(given):
                yield pytest.param(entry, given, id=f"{page.name}-{number}-{entry}")


@pytest.mark.parametrize("entry, given", list(documented_commands()))
def test_documented_commands_compose(entry, given):
    compose_config(entry, expand_checkpoints(given))


def arguments_of(target):
    """Keyword arguments of a class, or of its `from_checkpoint` (whose `**options` are those of the class)."""
    path = target.removesuffix(".from_checkpoint")
    found = set(inspect.signature(get_class(path)).parameters)
    if path == target:
        return found
    made = inspect.signature(get_class(path).from_checkpoint).parameters
    return (set(made) | (found - {"network"} if "options" in made else set())) - {"options"}


@pytest.mark.parametrize("group, name", [(group, name) for group in GROUPS for name in names(group)])
def test_a_config_states_every_argument_of_its_class(group, name):
    """So that a user sees each setting in --help."""
    config = load_named(group, name)
    assert set(config) - {"_target_"} == arguments_of(config["_target_"])


def test_unknown_names_are_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="no policy 'best'; there are agent, beam, box, box_agent, center, greedy"):
        load_named("policy", "best")


def test_a_constructors_complaint_arrives_unwrapped():
    with pytest.raises(ValueError, match=r"^flip=2: a probability"):
        build(OmegaConf.create({"_target_": "segagent.policies.simulated.NoisyOracle", "flip": 2}))
