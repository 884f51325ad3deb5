"""Names of spaces and subnets: the published ones stand for the published codes, and a project adds its own."""

import json
import os
from pathlib import Path

import pytest
import yaml
from made import REFERENCE, reference

from spaceevo.errors import CodeError
from spaceevo.space import known_names, parse_network, parse_space, parse_subnet
from spaceevo.space.names import SHIPPED

PUBLISHED_SPACES = {
    "spaceevo@pixel4": "mobilew-122222-155400",
    "spaceevo@pixel4-tiny": "mobilew-332160-134200",
    "spaceevo@pixel4-medium": "mobilew-112220-154410",
    "spaceevo@vnni": "onnxw-151122-023231",
    "spaceevo@vnni-large": "onnxw-121122-133333",
}
SUBNETS = [f"SEQnet@{device}-A{k}" for device in ("pixel4", "vnni") for k in range(5)]
TINY = "tiny-4664-1222"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(project: Path, content: object) -> Path:
    path = project / "names.yaml"
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return path


def test_names_are_those_of_the_release(project: Path) -> None:
    names = known_names()
    assert {name for name, named in names.items() if named.subnet is None} == set(PUBLISHED_SPACES)
    assert {name for name, named in names.items() if named.subnet is not None} == set(SUBNETS)


@pytest.mark.parametrize(("name", "code"), PUBLISHED_SPACES.items())
def test_a_space_has_its_published_code(name: str, code: str) -> None:
    assert parse_space(name).code == parse_space(f" {name}\n").code == code


@pytest.mark.parametrize("name", SUBNETS)
def test_a_subnet_has_its_published_codes(name: str) -> None:
    codes = json.loads(reference("published_codes.json").read_text())
    assert set(codes) == set(SUBNETS)
    space, subnet = parse_network(name)
    assert (space.code, subnet.code) == (codes[name]["space"], codes[name]["subnet"])
    assert parse_space(name) == space
    assert space.subnet(name) == parse_subnet(space.hyperspace, name) == space.subnet(subnet.code) == subnet


def test_shipped_spaces_are_those_of_the_reference() -> None:
    named = yaml.safe_load(reference("hyperspaces.yaml").read_text())["named_spaces"]
    assert REFERENCE.is_dir() and named == PUBLISHED_SPACES


def test_a_subnet_belongs_to_its_space() -> None:
    with pytest.raises(
        CodeError, match=r"SEQnet@pixel4-A0 is a subnet of mobilew-122222-155400, not of mobilew-112220"
    ):
        parse_space("spaceevo@pixel4-medium").subnet("SEQnet@pixel4-A0")
    with pytest.raises(CodeError, match=r"not of a space of onnxw"):
        parse_subnet(parse_space("spaceevo@vnni").hyperspace, "SEQnet@pixel4-A0")


@pytest.mark.parametrize("parse", [parse_network, lambda name: parse_space("spaceevo@vnni").subnet(name)])
def test_the_name_of_a_space_is_no_subnet(parse) -> None:
    with pytest.raises(CodeError, match="spaceevo@vnni is the name of a space: name a subnet"):
        parse("spaceevo@vnni")


def test_an_unknown_name_lists_names_like_it() -> None:
    with pytest.raises(CodeError, match=r"no name 'SEQnet@vnni-A7': use one of .*SEQnet@vnni-A\d.*names\.yaml") as near:
        parse_space("SEQnet@vnni-A7")
    assert "pixel4" not in str(near.value) and "\n" not in str(near.value)
    with pytest.raises(CodeError) as far:
        parse_space("x@y")
    assert all(name in str(far.value) for name in (*PUBLISHED_SPACES, *SUBNETS))


def test_a_project_has_names_of_its_own(project: Path) -> None:
    tiny = parse_space(TINY)
    own = {
        "spaces": {"ours@server": TINY},
        "subnets": {
            "best@server": {"space": "ours@server", "subnet": tiny.smallest.code},
            "fast@phone": {"space": TINY, "subnet": tiny.largest.code},
            "mine@pixel4": {"space": "spaceevo@pixel4", "subnet": parse_network("SEQnet@pixel4-A1")[1].code},
        },
    }
    path = write(project, own)
    assert parse_space("ours@server") == tiny
    assert parse_network("best@server") == (tiny, tiny.smallest)
    assert parse_network("fast@phone") == (tiny, tiny.largest)
    assert parse_network("mine@pixel4") == parse_network("SEQnet@pixel4-A1")
    assert set(known_names()) > {*PUBLISHED_SPACES, *SUBNETS}
    write(project, {"spaces": {"ours@server": "tiny-0123-1110"}})
    os.utime(path, ns=(1, 1))
    assert parse_space("ours@server").code == "tiny-0123-1110"


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ({"spaces": {"spaceevo@vnni": TINY}}, "names spaceevo@vnni, a name that is shipped already"),
        ({"subnets": {"SEQnet@vnni-A0": {"space": TINY, "subnet": "d1"}}}, "names SEQnet@vnni-A0"),
        ({"spaces": {"ours@server": "tiny-12-34"}}, "gives ours@server a wrong code: The space code 'tiny-12-34'"),
        ({"spaces": {"ours@server": 12}}, "gives ours@server a wrong code"),
        ({"spaces": {"ours@server": "ours@server"}}, "itself a name"),
        ({"subnets": {"ours@server": {"space": "lost@server", "subnet": "d1"}}}, "lost@server, which has no name"),
        ({"subnets": {"ours@server": {"space": TINY}}}, "ours@server stands for {'space': 'tiny-4664-1222'}"),
        ({"subnets": {"ours@server": TINY}}, "ours@server stands for 'tiny-4664-1222'"),
        ({"spaces": {"ours": TINY}}, "'ours' has no '@'"),
        ({"spaces": {3: TINY}}, "not valid"),
        ({"spaces": ["ours@server"]}, "not valid"),
        ({"space": {}}, "unknown keys ['space']"),
        ({"spaces": {"a@b": TINY}, "subnets": {"a@b": {"space": TINY, "subnet": "d1"}}}, "a@b names a space and a"),
        ("spaces: [", "not valid"),
        ("just text", "not valid"),
    ],
)
def test_a_wrong_file_of_names_is_named(project: Path, content: object, sentence: str) -> None:
    write(project, content)
    with pytest.raises(CodeError) as caught:
        parse_space("ours@server")
    said = str(caught.value)
    assert "names.yaml" in said and sentence in said and "\n" not in said and said.endswith(".")


def test_a_wrong_subnet_of_a_project_is_named(project: Path) -> None:
    tiny = parse_space(TINY)
    outside = tiny.largest.code.replace(f"_r{tiny.largest.resolution}", "_r31")
    for code, reason in (("d1_k3", "is not of the form"), (outside, "Resolution 31")):
        write(project, {"subnets": {"best@server": {"space": TINY, "subnet": code}}})
        os.utime(project / "names.yaml", ns=(len(code), len(code)))
        for parse in (parse_network, tiny.subnet):
            with pytest.raises(CodeError, match=rf"names\.yaml gives best@server a wrong code: .*{reason}"):
                parse("best@server")


def test_an_empty_file_of_names_is_none(project: Path) -> None:
    write(project, "")
    assert parse_space("spaceevo@vnni").code == PUBLISHED_SPACES["spaceevo@vnni"]
    assert SHIPPED.is_file()
