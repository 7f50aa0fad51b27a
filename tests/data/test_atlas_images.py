"""Label images come with the names of their parcels, wherever these are written; what does not belong is refused."""

import sys

import numpy as np
import pytest

nib = pytest.importorskip("nibabel")
pytest.importorskip("nilearn")
pd = pytest.importorskip("pandas")

from nilearn import datasets as nilearn_datasets  # noqa: E402

from brain_transformers.data import load_atlas, parcellate  # noqa: E402
from brain_transformers.data.readers import ROISeriesReadError  # noqa: E402

AFFINE = np.array([[4.0, 0, 0, -32], [0, 4, 0, -32], [0, 0, 4, -32], [0, 0, 0, 1]])
IDS = {2001: "Precentral_L", 2002: "Precentral_R", 7: "Thalamus"}


def image(data, code=4):
    picture = nib.Nifti1Image(data, AFFINE)
    picture.set_sform(AFFINE, code)
    picture.set_qform(AFFINE, code)
    return picture


@pytest.fixture
def brain(tmp_path):
    """Parcels 2001, 2002 and 7, and 99, which is no parcel; each with a signal of its own."""
    rng = np.random.default_rng(0)
    labels = np.zeros((12, 12, 12), np.int16)
    labels[1:5, 1:9, 1:9], labels[6:10, 1:9, 1:9], labels[1:10, 10, 1:9], labels[10, 1:9, 1:9] = 2001, 2002, 7, 99
    series = {label: rng.normal(size=20).astype(np.float32) for label in (2001, 2002, 7, 99)}
    data = rng.normal(size=(12, 12, 12, 20)).astype(np.float32)
    for label, values in series.items():
        data[labels == label] = values
    nib.save(image(labels), tmp_path / "atlas.nii.gz")
    return tmp_path, image(data), np.array([series[label] for label in IDS])


TABLES = {
    "bids.tsv": "index\tlabel\tnetwork_label\n0\tBackground\tn/a\n2001\tPrecentral_L\tA\n2002\tPrecentral_R\tA\n"
    "7\tThalamus\tB\n99\tUnknown\tn/a\n",
    "spreadsheet.csv": "\ufeffROI_name,ROI_ID,x\r\nPrecentral_L,2001,1\r\nPrecentral_R,2002,2\r\nThalamus,7,3\r\n"
    "Background,99,4\r\n",
    "FreeSurfer.txt": "# No. Label Name: R G B A\n\n0 Unknown 0 0 0 0\n2001  Precentral_L  25 5 25 0\n"
    "2002 Precentral_R 1 2 3 0\n7 Thalamus 4 5 6 0\n99 Medial_wall 4 5 6 0\n",
    "FSL.lut": "2001 0.47 0.07 0.51 Precentral_L\n2002 0.4 0.1 0.5 Precentral_R\n7 0.1 0.1 0.1 Thalamus\n"
    "99 0 0 0 background\n",
    "itksnap.txt": '0 0 0 0 0 0 0 "Clear Label"\n2001 255 0 0 1 1 1 "Precentral_L"\n2002 0 255 0 1 1 1 '
    '"Precentral_R"\n7 1 2 3 1 1 1 "Thalamus"\n99 1 2 3 1 1 1 "Clear Label"\n',
    "schaefer.txt": "2001\tPrecentral_L\t120\t18\t131\t0\n2002\tPrecentral_R\t1\t1\t1\t0\n7\tThalamus\t1\t1\t1\t0\n"
    "99\t???\t0\t0\t0\t0\n",
}


@pytest.mark.parametrize("name", TABLES)
def test_names_come_from_every_common_table(brain, name):
    folder, bold, series = brain
    (folder / name).write_text(TABLES[name], encoding="utf-8", newline="")
    result = parcellate(bold, load_atlas(folder / "atlas.nii.gz", folder / name))
    assert result.roi_labels == tuple(IDS.values())
    np.testing.assert_allclose(result.signals, series, rtol=1e-5)


def test_names_stand_beside_an_atlas_of_bids(brain):
    folder, bold, series = brain
    labels = nib.load(folder / "atlas.nii.gz")
    place = folder / "tpl-MNI152NLin6Asym_atlas-Mine_res-01_dseg.nii.gz"
    nib.save(labels, place)
    (folder / "tpl-MNI152NLin6Asym_atlas-Other_dseg.tsv").write_text("index\tname\n1\tno\n")
    (folder / "atlas-Mine_dseg.tsv").write_text(TABLES["bids.tsv"])
    result = parcellate(bold, place)
    assert result.roi_labels == tuple(IDS.values())
    np.testing.assert_allclose(result.signals, series, rtol=1e-5)
    assert result.provenance["atlas"]["space"] == "MNI152NLin6Asym"
    assert len(result.provenance["atlas"]["sha256"]) == 64


def test_a_parcel_that_the_image_lacks_keeps_its_row(brain):
    folder, bold, _ = brain
    names = {**IDS, 99: "background", 50: "Vanished"}
    with pytest.warns(UserWarning, match=r"1 of 4 parcels have no voxel .*'Vanished'"):
        result = parcellate(bold, load_atlas(folder / "atlas.nii.gz", names))
    assert result.roi_labels[3] == "Vanished"
    assert np.isnan(result.signals[3]).all()
    # A table of everything, as FreeSurfer's, is not the list of an atlas.
    many = {**IDS, 99: "background", **{number: f"other {number}" for number in range(200, 300)}}
    assert parcellate(bold, load_atlas(folder / "atlas.nii.gz", many)).roi_labels == tuple(IDS.values())


def test_names_and_numbers_that_do_not_belong_together_are_refused(brain):
    folder, _, _ = brain
    atlas = folder / "atlas.nii.gz"
    for names, message in (
        (None, "most rows would be empty. Give the table"),
        ({2001: "a", 2002: "b", 7: "c"}, r"1 of its 4 labels .first: \[99\]. have no name"),
        ({2001: "a", 2002: "a", 7: "c", 99: "d"}, "'a' twice"),
        (["a", "b", "c", "d"], "have no name in the table"),
        (folder / "none.tsv", r"none\.tsv"),
    ):
        with pytest.raises(ROISeriesReadError, match=message):
            load_atlas(atlas, names)
    (folder / "strange.tsv").write_text("parcel\tcolour\nPrecentral_L\tred\n")
    with pytest.raises(ROISeriesReadError, match=r"strange\.tsv: expected columns index and name, got parcel, colour"):
        load_atlas(atlas, folder / "strange.tsv")


def test_atlases_of_nilearn_bring_their_names(brain, monkeypatch):
    folder, bold, series = brain
    asked = {}

    def fetch(**options):
        asked.update(options)
        lut = pd.DataFrame({"index": [0, 7, 2001, 2002, 99], "name": ["Background", *"tlr", "unknown"]})
        return {
            "maps": str(folder / "atlas.nii.gz"),
            "lut": lut,
            "template": "MNIColin27",
            "atlas_type": "deterministic",
        }

    monkeypatch.setattr(nilearn_datasets, "fetch_atlas_aal", fetch)
    result = parcellate(bold, "nilearn:aal?version=SPM12&resume=1")
    assert asked == {"version": "SPM12", "resume": 1}
    assert result.roi_labels == ("t", "l", "r")
    np.testing.assert_allclose(result.signals, series[[2, 0, 1]], rtol=1e-5)
    assert result.provenance["atlas"]["space"] == "MNIColin27"
    assert parcellate(bold, fetch()).roi_labels == ("t", "l", "r")
    monkeypatch.setattr(nilearn_datasets, "fetch_atlas_msdl", lambda: {"maps": "", "atlas_type": "probabilistic"})
    for name, message in (("nilearn:msdl", "probabilistic"), ("nilearn:none", "atlas of nilearn, which are aal,")):
        with pytest.raises(ROISeriesReadError, match=message):
            load_atlas(name)


def test_a_file_of_an_installed_package_is_found_without_importing_it(brain, monkeypatch):
    folder, bold, _ = brain
    package = folder / "made_up_atlases"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    (folder / "atlas.nii.gz").rename(package / "labels.nii.gz")
    (package / "labels.tsv").write_text(TABLES["bids.tsv"])
    monkeypatch.syspath_prepend(folder)
    assert parcellate(bold, "package:made_up_atlases/labels.nii.gz").roi_labels == tuple(IDS.values())
    assert "made_up_atlases" not in sys.modules
    (folder / "secret.nii.gz").write_bytes(b"")
    for name, message in (
        ("package:made_up_atlases/none.nii.gz", "no such file"),
        ("package:made_up_atlases/../secret.nii.gz", "no such file"),
        ("package:not_there/x.nii.gz", "not installed"),
    ):
        with pytest.raises(ROISeriesReadError, match=message):
            load_atlas(name)


def test_native_space_is_never_mixed_with_a_template(brain):
    folder, bold, series = brain
    names = {**IDS, 99: "background"}
    nib.save(nib.load(folder / "atlas.nii.gz"), folder / "space-T1w_dseg.nii.gz")
    mni, own = load_atlas(folder / "atlas.nii.gz", names), load_atlas(folder / "space-T1w_dseg.nii.gz", names)
    native = folder / "sub-01_space-T1w_desc-preproc_bold.nii.gz"
    normalised = folder / "sub-01_space-MNI152NLin2009cAsym_bold.nii.gz"
    for path in (native, normalised):
        nib.save(bold, path)
    np.testing.assert_allclose(parcellate(native, own).signals, series, rtol=1e-5)
    with pytest.raises(ROISeriesReadError, match=r"person's own space \(T1w\). Normalise it first"):
        parcellate(native, mni)
    with pytest.raises(ROISeriesReadError, match=r"space of the label image \(T1w\), got one in MNI152NLin2009cAsym"):
        parcellate(normalised, own)
    raw = image(np.asarray(bold.dataobj), code=1)
    with pytest.raises(ROISeriesReadError, match=r"\(scanner\)"):
        parcellate(raw, mni)
    nib.save(nib.load(folder / "atlas.nii.gz"), folder / "atlas_MNI152NLin6Asym.nii.gz")
    with pytest.warns(UserWarning, match="image is in MNI152NLin2009cAsym and the atlas in MNI152NLin6Asym"):
        parcellate(normalised, load_atlas(folder / "atlas_MNI152NLin6Asym.nii.gz", names))
