"""What client/cpp/README.md says can be done as it says."""

from __future__ import annotations

import re

import pytest

from tests.client_cpp.conftest import BUILD_TIMEOUT_S
from tests.client_cpp.toolchain import BUILD, SOURCE, need, run

README = (SOURCE / "README.md").read_text()

AROUND = """
int report(const vinf::Status& status);
std::chrono::microseconds media_time();
void upload(const std::uint8_t* pixels, std::int64_t stride);
int example();
int example() {{
{body}
return 0;
}}
"""


@pytest.mark.process
@pytest.mark.timeout(BUILD_TIMEOUT_S)
def test_the_first_example_compiles(tmp_path):
    need(("g++",))
    (code,) = re.findall(r"```cpp\n(.*?)```", README, re.DOTALL)
    include, _, body = code.partition("\n")
    unit = tmp_path / "example.cc"
    unit.write_text(include + AROUND.format(body=body))
    strict = ("-Wall", "-Wextra", "-Wpedantic", "-Werror", "-fsyntax-only")
    run("g++", "-std=c++17", *strict, f"-I{SOURCE / 'include'}", unit)


@pytest.mark.fast
def test_the_packages_are_those_of_the_tests():
    line = re.search(r"^apt-get install (.*)$", README, re.MULTILINE).group(1)
    assert sorted(line.split(" ")) == sorted(BUILD)


@pytest.mark.fast
def test_every_option_is_explained():
    options = set(
        re.findall(r"^(?:option|set)\((VINF_\w+) .*(?:OFF|CACHE|LEVEL})", (SOURCE / "CMakeLists.txt").read_text(), re.M)
    )
    assert {"VINF_PROTO_DIR", "VINF_SANITIZE"} <= options
    assert not [option for option in options if option not in README]


@pytest.mark.fast
def test_links_lead_somewhere():
    for page in SOURCE.rglob("*.md"):
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
            if not target.startswith("http"):
                assert (page.parent / target).exists(), f"{page}: {target}"
