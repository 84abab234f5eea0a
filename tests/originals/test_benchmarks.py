"""The benchmarks' PyTorch code runs, and its models train as many values as ours."""

import pytest
from conftest import ROOT

NAMES = ['a_vit_base', 'b_vit_base', 'c_live_8', 'd_pretrain', 'd_finetune', 'e_vit_base']


@pytest.fixture(autouse=True)
def bench():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / 'tests/benchmarks')
        import bench

        yield bench


@pytest.mark.parametrize('name', NAMES)
def test_a_case_runs_with_both_frameworks(bench, tmp_path, name):
    case = bench.cases.small(*bench.cases.chosen([name]))
    ours, theirs = bench.measure(case, 1, 1, tmp_path)  # it compares the numbers of parameters
    assert (
        ours['framework'] == 'paddle' and theirs['framework'] == 'torch' and theirs['threads'] == 1
    )
    assert ours['ratio'] == ours['ms'] / theirs['ms'] and theirs['ratio'] == 1
    if case.kind not in ('load', 'infer'):
        assert ours['parameters'] == theirs['parameters'] > 1e5
        assert theirs['convergence_value'] > 0.5
