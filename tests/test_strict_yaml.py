"""Files as their authors mean them: keys once, numbers as numbers."""

import pytest
import yaml

import lightning_fwd as lf
from lightning_fwd.compare import load_scenario
from lightning_fwd.strict_yaml import load_yaml


def test_numbers_with_an_exponent_are_numbers():
    assert load_yaml("[1e-3, -2E+3, 1e5, 1.0e-3]") == [0.001, -2000.0, 100000.0, 0.001]
    assert load_yaml("[1e, e5, 1-e3, 'a1e3', '1e3']") == ["1e", "e5", "1-e3", "a1e3", "1e3"]


def test_merged_keys_may_be_overwritten():
    assert load_yaml("base: &base {a: 1, b: 2}\nmine: {<<: *base, b: 3}")["mine"] == {"a": 1, "b": 3}


@pytest.mark.parametrize("text", ["a: 1\nb: 2\na: 3", "x: {a: 1, a: 1}", "[a]: 1"])
def test_what_is_no_yaml_mapping_is_refused(text):
    with pytest.raises(yaml.YAMLError):
        load_yaml(text)


def test_a_repeated_key_of_a_recipe_is_told_with_its_lines(tmp_path):
    recipe = tmp_path / "compare.yaml"
    recipe.write_text("data: {dataset: digits}\nmodel: small_conv\nadapt_samples: 10\nadapt_samples: 100\n")
    with pytest.raises(lf.LightningFwdError, match="'adapt_samples' stands twice, in lines 3 and 4"):
        load_scenario(recipe)
