"""Each repair is made if the installed PaddleSeg needs it, and only then."""

import importlib.util
import sys

import paddleseg.core.infer
import paddleseg.cvlibs.config
import paddleseg.datasets
import paddleseg.deploy.infer
import paddleseg.utils.logger
import paddleseg.utils.metrics
import pytest
from paddleseg.cvlibs import manager
from paddleseg.transforms import ResizeByShort, functional

import seg  # noqa: F401
from seg import config, dataset, infer, metrics, repairs, transforms

PLACES = {
    'areas': (paddleseg.utils.metrics, 'calculate_area', metrics.calculate_area),
    'means': (paddleseg.utils.metrics, 'mean_iou', metrics.mean_iou),
    'means of dice': (paddleseg.utils.metrics, 'dice', metrics.dice),
    'accuracies': (paddleseg.utils.metrics, 'class_measurement', metrics.class_measurement),
    'windows': (paddleseg.core.infer, 'slide_inference', infer.slide_inference),
    'augmentation': (paddleseg.core.infer, 'aug_inference', infer.multi_scale),
    'thin_pictures': (functional, 'resize_long', transforms.resized_by_long),
    'thin_pictures by resize': (functional, 'resize', transforms.resized),
    'short_edges': (ResizeByShort, '__call__', transforms.resize_by_short),
    'reading': (paddleseg.datasets.Dataset, '__getitem__', dataset.sample),
    'reading_lists': (paddleseg.datasets.Dataset, '__init__', paddleseg.datasets.Dataset.__init__),
    'deploy_files': (
        paddleseg.deploy.infer.DeployConfig,
        'model',
        paddleseg.deploy.infer.DeployConfig.model,
    ),
    'numbers': (paddleseg.cvlibs.config, 'yaml', config.with_numbers),
    'numbers of deploy.yaml': (paddleseg.deploy.infer, 'yaml', config.with_numbers),
    'overrides': (paddleseg.cvlibs.config, 'update_config_dict', config.update_config_dict),
    'logged_text': (paddleseg.utils.logger, 'log', paddleseg.utils.logger.log),
}


def as_installed(module):
    """A module of PaddleSeg in its state on the disk."""
    spec = importlib.util.spec_from_file_location('as_installed', sys.modules[module].__file__)
    fresh = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(fresh)
    return fresh


def original(owner, name):
    if isinstance(owner, type):
        return vars(vars(as_installed(owner.__module__))[owner.__name__])[name]
    return vars(as_installed(owner.__name__))[name]


@pytest.mark.parametrize('name', PLACES)
@pytest.mark.filterwarnings('ignore:.*exists already')
def test_a_repair_is_made_where_it_is_needed_and_not_made_twice(name, monkeypatch):
    owner, attribute, ours = PLACES[name]
    repair = getattr(repairs, name.split()[0])
    assert repair in repairs.REPAIRS and not repair()  # import seg has repaired it
    assert vars(owner)[attribute] is ours
    registries = (manager.DATASETS.components_dict, manager.TRANSFORMS.components_dict)
    before = [dict(components) for components in registries]
    installed = original(owner, attribute)
    monkeypatch.setattr(owner, attribute, installed)
    for components, registered in zip(registries, before):
        components.update(registered)  # as_installed() registers them again
    assert repair() and vars(owner)[attribute] is not installed


def test_a_log_shows_what_it_is_given_in_the_form_of_paddleseg(capsys):
    for log in (paddleseg.utils.logger.log, as_installed('paddleseg.utils.logger').log):
        log(1, 'a name')
        paddleseg.utils.logger.debug('not shown')
    ours, theirs = capsys.readouterr().out.splitlines()
    assert ours[19:] == theirs[19:] == ' [WARNING]\ta name'
    paddleseg.utils.logger.info('类别 ä')
    assert capsys.readouterr().out.endswith('[INFO]\t类别 ä\n')


def test_a_repaired_function_of_a_later_paddleseg_stays(monkeypatch):
    def theirs(*areas):
        return metrics.mean_iou(*areas)

    monkeypatch.setattr(paddleseg.utils.metrics, 'mean_iou', theirs)
    assert not repairs.means() and paddleseg.utils.metrics.mean_iou is theirs


def test_a_deploy_file_of_paddlesegs_own_export_finds_the_model(tmp_path):
    (tmp_path / 'deploy.yaml').write_text(
        'Deploy: {model: model.pdmodel, params: model.pdiparams, transforms: []}'
    )
    config = paddleseg.deploy.infer.DeployConfig(str(tmp_path / 'deploy.yaml'))
    # neither file exists: the name in deploy.yaml holds
    assert config.model == str(tmp_path / 'model.pdmodel')
    (tmp_path / 'model.json').touch()
    assert config.model == str(tmp_path / 'model.json')
