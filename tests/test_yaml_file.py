import pytest

from mindvl.yaml_file import read_yaml


def test_keys_and_values_come_as_yaml_means_them_anchors_and_merges_included(tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text("a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}\n")
    assert read_yaml(file) == {"a": {"x": 1, "y": 2}, "b": {"x": 1, "y": 3}}
    file.write_text("# nothing yet\n")
    assert read_yaml(file) == {}


@pytest.mark.parametrize(
    "content, complaint",
    [
        (None, "recipe {file} is not a file"),
        (b"a: [1\nb: 2\n", r"recipe {file} is not YAML: line 2, column 2: expected ',' or ']', but got ':'"),
        (b"a: \xff\n", "recipe {file} is not UTF-8: "),
        (b"a:\n  x: 1\n  x: 2\n", "recipe {file}: line 2: the key 'x' is there twice"),
        (b"- 1\n", "recipe {file} holds a list, not keys and values"),
    ],
)
def test_what_is_wrong_with_a_file_is_one_line_with_its_name(content, complaint, tmp_path):
    file = tmp_path / "r.yaml"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ValueError) as told:
        read_yaml(file, "recipe")
    assert str(told.value).startswith(complaint.format(file=file)) and "\n" not in str(told.value)
