from __future__ import annotations

import codecs
import gzip
import zipfile
from pathlib import Path

import pytest

from mobilette.data.dataset import load_dataset
from mobilette.data.preprocess import preset
from mobilette.data.sources import find_images
from tests.accepted.listing import TWO, each, each_refused, read
from tests.accepted.page import Case, check, rows
from tests.conftest import write_images


def archive(folder: Path) -> None:
    with zipfile.ZipFile(folder / "list.csv", "w") as file:
        file.writestr("xl/workbook.xml", "<workbook/>")
    find_images(folder / "list.csv")


def link(folder: Path) -> None:
    (folder / "set").mkdir()
    (folder / "1.jpg").touch()
    (folder / "set" / "1.jpg").symlink_to(folder / "1.jpg")
    read("path,label\n1.jpg,cat\n2.jpg,dog\n")(folder / "set")


def missing(folder: Path) -> None:
    write_images(folder, 4)
    files = sorted(folder.glob("*/*"))
    lines = [f"{path.relative_to(folder).as_posix()},{path.parent.name}" for path in files]
    (folder / "a.csv").write_text("\n".join(["file,label", *lines, "gone.png,red"]))
    found = find_images(folder / "a.csv")
    dataset = load_dataset(found, resolution=16, preprocess=preset("torch"))
    assert dataset.describe()["remarks"] == [f"{folder / 'a.csv'}: column 'file' is the path"]
    assert dataset.unusable == (("gone.png", "cannot be read: No such file or directory"),)


PLAIN = "path,label\n1.jpg,cat\n2.jpg,dog\n"
SPLITS = {"1.jpg": "cat@train", "2.jpg": "dog@train", "3.jpg": "cat@val", "4.jpg": "dog@test"}
TABBED = PLAIN.replace(",", "\t")


def splits(header: str, *words: str) -> str:
    pairs = zip(SPLITS, ("cat", "dog", "cat", "dog"), words, strict=True)
    return "\n".join([header, *map(",".join, pairs)])


CASES: dict[str, Case] = {
    "`path,label` in a `.csv`, with a tab in a `.tsv`": each(
        read(PLAIN),
        read(TABBED, name="list.tsv"),
        read("i,path,label,note\n1,1.jpg,cat,test\n2,2.jpg,dog,a train\n"),
    ),
    "`path,label,split`": read(splits("path,label,split", "train", "train", "val", "test"), SPLITS),
    "`Path,Label,Split` in any case, ` path , label `": each(
        read(splits("Path,LABEL,Split", "train", "train", "val", "test"), SPLITS),
        read(" path , label \n 1.jpg , cat \n2.jpg,dog"),
    ),
    "`valid`, `Training`, `TEST`, `dev` in the split": each(
        read(splits("path,label,split", "Training", "train_set", "valid", "TEST"), SPLITS),
        read(splits("path,label,split", "TRAIN", "train", "dev", "testing"), SPLITS),
    ),
    "a column of nothing but splits called `set`, `Usage`": each(
        read(
            splits("path,label,set", "train", "train", "val", "test"),
            SPLITS,
            said="column 'set' is the split",
        ),
        read(
            splits("path,kind,Usage", "Training", "Training", "Validation", "Testing"),
            SPLITS,
            said="column 'kind' is the label, column 'Usage' is the split",
        ),
    ),
    "`is_valid` of true and false": read(
        "path,label,is_valid\n1.jpg,cat,False\n2.jpg,dog,False\n3.jpg,cat,True\n",
        {"1.jpg": "cat@train", "2.jpg": "dog@train", "3.jpg": "cat@val"},
        said="column 'is_valid' is the split",
    ),
    "a split that is none": each_refused(
        "line 3: split 'holdout' is not one of train, val, test",
        "path,label,set\n1.jpg,cat,train\n2.jpg,dog,holdout\n",
        "path,label,split\n1.jpg,cat,train\n2.jpg,dog,holdout\n",
    ),
    "no row for training": read("path,label,split\n1.jpg,cat,val\n2.jpg,dog,test\n", {}),
    "a class in `val` or `test` that `train` has not": read(
        "path,label,split\n1.jpg,cat,train\n2.jpg,dog,train\n3.jpg,cats,val\n"
    ),
    "a column `fold` of numbers": each(
        read(
            "path,label,kfold\n1.jpg,cat,0\n2.jpg,dog,1\n",
            said="column 'kfold' is ignored; use a column 'split' with 'train' and 'val'",
        ),
        read(
            "path,kind,fold\n1.jpg,cat,0\n2.jpg,dog,1\n",
            said="column 'kind' is the label, column 'fold' is ignored",
        ),
    ),
    "rows of `test` without a label": read(
        "path,label,split\n1.jpg,cat,train\n2.jpg,dog,train\n3.jpg,cat,val\n4.jpg,,test\n",
        {"1.jpg": "cat@train", "2.jpg": "dog@train", "3.jpg": "cat@val"},
        said="1 images of test have no label and are left out",
    ),
    "a row without a label elsewhere; `nan`, as pandas writes an empty cell": each_refused(
        "line 3: the label of",
        "path,label\n1.jpg,cat\n2.jpg,nan\n3.jpg,dog\n",
        "path,label\n1.jpg,1.0\n2.jpg,NaN\n3.jpg,2.0\n",
        "path,label\n1.jpg,cat\n2.jpg,\n",
    ),
    "`;`, tab or `\\|` between the columns, whatever the suffix": each(
        *(read(PLAIN.replace(",", sign)) for sign in ";\t|"),
        read(
            "path;labels\n1.jpg;cat\n2.jpg;dog,cat\n3.jpg;dog\n4.jpg;dog,cow\n5.jpg;cow",
            {
                "1.jpg": "cat",
                "2.jpg": "cat+dog",
                "3.jpg": "dog",
                "4.jpg": "cow+dog",
                "5.jpg": "cow",
            },
            several=True,
            said="labels are separated by a comma",
        ),
        read(PLAIN, name="list.tsv"),
        read(TABBED, name="list.txt"),
        read("a,b.jpg;cat\n2.jpg;dog\n", {"a,b.jpg": "cat", "2.jpg": "dog"}, said="no header"),
    ),
    "`sep=;` in the first line, as Excel writes it": read("sep=;\n" + PLAIN.replace(",", ";")),
    "comments (`#`) before the header, empty lines, rows of commas": read(
        "# made by hand, 2024\n\n" + PLAIN.replace("1.jpg", "\n,\n1.jpg") + "\n,\n"
    ),
    "a comment among the rows": read(PLAIN + "# that is all\n", said="1 rows begin with '#'"),
    "a comma at the end of each row": each(
        read("path,label,\n1.jpg,cat,\n2.jpg,dog,\n"), read("path,label\n1.jpg,cat,\n2.jpg,dog,,\n")
    ),
    "fields in quotes, with commas and spaces before them": read(
        '"path", "label"\n"a, b/1.jpg", "cat"\n"2.jpg", "a ""big"" dog"\n',
        {"a, b/1.jpg": "cat", "2.jpg": 'a "big" dog'},
    ),
    "CRLF, CR alone, no line end at the end": each(
        read(PLAIN.replace("\n", "\r\n")), read(PLAIN.replace("\n", "\r")), read(PLAIN.strip())
    ),
    "UTF-8 with a byte-order mark, UTF-16 and UTF-32 with one": each(
        *(
            read(
                mark + "path\tlabel\n猫/1.jpg\tcat\n2.jpg\thund ü\n".encode(encoding),
                {"猫/1.jpg": "cat", "2.jpg": "hund ü"},
            )
            for mark, encoding in (
                (codecs.BOM_UTF8, "utf-8"),
                (codecs.BOM_UTF16_LE, "utf-16-le"),
                (codecs.BOM_UTF16_BE, "utf-16-be"),
                (codecs.BOM_UTF32_LE, "utf-32-le"),
            )
        )
    ),
    "UTF-16 without a byte-order mark": read(PLAIN.encode("utf-16-le")),
    "Windows-1252, Latin-1": read("path,label\n1.jpg,cat\n2.jpg,é\n".encode("latin-1")),
    "a zero byte": read("path,label\n1.jpg,c\0at\n2.jpg,dog\n"),
    "a workbook of Excel, a zip archive": archive,
    "compressed by gzip": read(gzip.compress(PLAIN.encode())),
    "a web page, JSON": each_refused(
        "not a list but", '[{"path": "1.jpg"}]', "<!DOCTYPE html><html></html>"
    ),
    "a pointer of Git LFS": read("version https://git-lfs.github.com/spec/v1\noid sha256:0\n"),
    "a quote that is not closed": read('path,label\n1.jpg,"cat\n2.jpg,dog\n'),
    "a field of 10 MB": read("path,label\n1.jpg," + "a" * 10_000_000 + "\n2.jpg,dog\n"),
    "a row with more or fewer fields": read("path,label\n1.jpg,cat\n2.jpg,a,dog\n"),
    "an empty file": read(""),
    "a header and no row": read("path,label\n"),
    "a column twice": read("path,label,Label\n1.jpg,cat,cat\n2.jpg,dog,dog\n"),
    "two columns that may be the label": read(
        "path,class_id,class_name\n1.jpg,0,cat\n2.jpg,1,dog\n"
    ),
    "`filename,class`, `image_id,breed`, `Image Index,Finding Labels`": each(
        read("filename,class\n1.jpg,cat\n2.jpg,dog\n", said="'filename' is the path"),
        read("picture_id,label\n1.jpg,cat\n2.jpg,dog\n", said="'picture_id' is the path"),
        read(",image_id,breed\n0,1.jpg,cat\n1,2.jpg,dog\n", said="column 'breed' is the label"),
        read(
            "Image Index,Finding Labels\n1.jpg,cat\n2.jpg,dog\n3.jpg,cat|dog\n",
            TWO | {"3.jpg": "cat+dog"},
            said="column 'Finding Labels' is the label",
            several=True,
        ),
        read(
            "Width;Height;Roi.X1;ClassId;Path\n9;9;1;cat;1.jpg\n8;8;0;dog;2.jpg\n",
            said="column 'ClassId' is the label",
        ),
    ),
    "no column of paths": read("a,label\n1.jpg,cat\n2.jpg,dog\n"),
    "no header: `cat/1.jpg,cat` or `cat,cat/1.jpg`": each(
        read("1.jpg,cat\n2.jpg,dog\n", said="no header: column 1 is the path, column 2 the label"),
        read("[1].jpg,cat\n2.jpg,dog\n", {"[1].jpg": "cat", "2.jpg": "dog"}, said="no header"),
        read("cat\t1.jpg\ndog\t2.jpg\n", said="no header: column 2 is the path"),
        read(
            "1.jpg,cat,train\n2.jpg,dog,train\n3.jpg,cat,valid\n4.jpg,dog,test\n",
            SPLITS,
            said="column 3 the split",
        ),
    ),
    "no header: `my cat.jpg 3`, as in a `.txt`": read(
        "my  cat.jpg 3\n\n2.jpg\t0\n".replace("\t", "  "),
        {"my  cat.jpg": "3", "2.jpg": "0"},
        name="train.txt",
        said="no header",
    ),
    "no header and several numbers or words after a path": each_refused(
        "the first row has an image",
        "1.jpg,1,2,3,4,cow\n2.jpg,1,2,3,4,cat\n",
        "1.jpg hot dog\n2.jpg cat\n",
        "0\t1.0\t1.jpg\n1\t0.0\t2.jpg\n",
        "1.jpg 0 1 0\n2.jpg 1 0 0\n",
    ),
    "`filename,cat,dog` with 0 and 1, one 1 a row": each(
        read(
            "filename, cat, dog\n1.jpg, 1, 0\n2.jpg, 0, 1\n",
            said="2 columns of 0 and 1 are the classes; ",
        ),
        read(
            "image,cat,dog,cow\n1.jpg,1.0,0.0,0.0\n2.jpg,0.0,1.0,0.0\n",
            said="no image has cow",
        ),
        read(
            "path,0,1,plot\n1.jpg,1,0,0\n2.jpg,0,1,0\n", {"1.jpg": "0", "2.jpg": "1"}, said="plot"
        ),
    ),
    "the same with several or no 1 (Roboflow's `_classes.csv`)": read(
        "filename, cat, dog\n1.jpg, 1, 0\n2.jpg, 1, 1\n3.jpg, 0, 0\n",
        {"1.jpg": "cat", "2.jpg": "cat+dog", "3.jpg": ""},
        said="an image may have any number of them",
        several=True,
    ),
    "the same with something else, such as -1": read("filename,cat,dog\n1.jpg,1,0\n2.jpg,1,-1\n"),
    "`path,labels` with `cat;dog`, `cat\\|dog;`, nothing": read(
        "path,labels\n1.jpg,cat;dog\n2.jpg,cat|dog;\n3.jpg,\n",
        {"1.jpg": "cat+dog", "2.jpg": "cat+dog", "3.jpg": ""},
        several=True,
    ),
    "the same with commas or spaces, where the parts come again": each(
        *(
            read(
                f'path,{name}\n1.jpg,"cat{sign}dog"\n2.jpg,cat\n3.jpg,dog\n',
                {"1.jpg": "cat+dog", "2.jpg": "cat", "3.jpg": "dog"},
                several=True,
                said="labels are separated by",
            )
            for name, sign in (("labels", ","), ("labels", " "), ("tags", " "))
        ),
        read(
            'path,labels\n1.jpg,"tench, Tinca tinca"\n2.jpg,golden retriever\n',
            {"1.jpg": "tench, Tinca tinca", "2.jpg": "golden retriever"},
            several=True,
            said="commas are part of the labels' names",
        ),
    ),
    "`path,label` with `cat\\|dog` or `cat,dog`": each_refused(
        "several labels need a column 'labels'",
        "path,label\n1.jpg,cat|dog\n2.jpg,dog\n",
        'path,label\n1.jpg,"cat,dog"\n2.jpg,dog\n3.jpg,cat\n',
    ),
    "`['cat', 'dog']`": read("path,labels\n1.jpg,\"['cat', 'dog']\"\n2.jpg,\"['dog']\"\n"),
    "labels `1`, `2`": read("path,label\n1.jpg,1\n2.jpg,2\n", {"1.jpg": "1", "2.jpg": "2"}),
    "labels `1.0`, `2.0`, as pandas writes them": read(
        "path,label\n1.jpg,1.0\n2.jpg,2.0\n3.jpg,2\n",
        {"1.jpg": "1", "2.jpg": "2", "3.jpg": "2"},
        said="labels such as '1.0' are read as '1'",
    ),
    "ten labels or more, all different": read(
        "".join(f"{number} {number}.jpg\n" for number in range(10)), name="images.txt"
    ),
    "labels of measured numbers, such as 0.731": read(
        "path,label\n" + "".join(f"{number}.jpg,{number % 19 / 7:.3f}\n" for number in range(20))
    ),
    "labels `Cat` and `cat`": read(
        "path,label\n1.jpg,Cat\n2.jpg,cat\n",
        {"1.jpg": "Cat", "2.jpg": "cat"},
        said="classes 'Cat' and 'cat' differ in their case only",
    ),
    "`cat\\1.jpg`": read(
        "path,label\na\\1.jpg,cat\n.\\a\\b\\2.jpg,dog\n", {"a/1.jpg": "cat", "a/b/2.jpg": "dog"}
    ),
    "`./1.jpg`, `a/../1.jpg`, an absolute path inside the list's folder": each(
        read("path,label\n./1.jpg,cat\na/../2.jpg,dog\n"),
        read("path,label\nHERE/1.jpg,cat\nHERE/a/2.jpg,dog\n", {"1.jpg": "cat", "a/2.jpg": "dog"}),
    ),
    "`../1.jpg`, `/etc/1.jpg`, `C:\\1.jpg`": each_refused(
        "is not inside the list's folder",
        *(f"path,label\n1.jpg,cat\n{path},dog\n" for path in ("../1.jpg", "/etc/1.jpg", "a/../..")),
        "path,label\n1.jpg,cat\nC:\\1.jpg,dog\n",
    ),
    "a link to outside the list's folder": link,
    "`https://...`, `gs://...`, `file:///...`": each_refused(
        "web addresses are not supported; download the images",
        "url,label\nhttps://example.org/1.jpg,cat\n2.jpg,dog\n",
        "path,label\n1.jpg,cat\nfile:///tmp/1.jpg,dog\n",
        "path,label\n1.jpg,cat\ngs://bucket/1.jpg,dog\n",
    ),
    "`id,label` of `0001`, where `0001.jpg` is there": each(
        read(
            "id,label\n0001,cat\n0002.x,dog\n",
            {"0001.jpg": "cat", "0002.x.png": "dog"},
            there="0001.jpg 0001.txt 0002.x.png",
            said="2 paths have no suffix",
        ),
        read(
            "id,breed\n1,cat\n2,dog\n",
            {"train/1.jpg": "cat", "train/2.jpg": "dog"},
            name="labels.csv",
            there="train/1.jpg train/2.jpg test/3.jpg",
            said="the images are in train/",
        ),
    ),
    "the same where `0001.jpg` and `0001.png` are there": read(
        "id,label\n0001,cat\n0002,dog\n", there="0001.jpg 0001.png"
    ),
    "`train.csv` beside `train/`, its paths from there": read(
        PLAIN,
        {"Train/1.jpg": "cat", "Train/2.jpg": "dog"},
        name="train_labels.csv",
        there="Train/1.jpg Train/2.jpg test/1.jpg test/2.jpg",
        said="the images are in Train/",
    ),
    "images in several folders beside the list": each(
        read(
            PLAIN,
            {"a/1.jpg": "cat", "b/2.jpg": "dog"},
            there="a/1.jpg b/2.jpg c/3.jpg",
            said="the images are in a/, b/",
        ),
        read(
            "path,label,split\n1.jpg,cat,train\n2.jpg,dog,train\n3.jpg,cat,val\n",
            {"train/1.jpg": "cat@train", "train/2.jpg": "dog@train", "valid/3.jpg": "cat@val"},
            there="train/1.jpg train/2.jpg train/3.jpg valid/1.jpg valid/3.jpg",
            said="the images are in train/, valid/",
        ),
    ),
    "paths that begin with the name of the list's folder": each(
        read(
            "path,label\n0/a/1.jpg,cat\n0/2.jpg,dog\n",
            {"a/1.jpg": "cat", "2.jpg": "dog"},
            there="a/1.jpg 2.jpg",
            said="the paths begin with 0/",
        )
    ),
    "an image in two such folders": read(PLAIN, there="a/1.jpg b/1.jpg b/2.jpg"),
    "an image in two rows that say the same": read(
        PLAIN + "./1.jpg,cat\n", said="1 rows repeat an earlier one"
    ),
    "an image in two rows that differ": read(PLAIN + "1.jpg,dog\n"),
    "one class": read("path,label\n1.jpg,cat\n2.jpg,cat\n"),
    "an image that is missing": missing,
}


def test_the_table_and_the_cases_have_the_same_rows() -> None:
    assert list(rows("Lists")) == list(CASES)


@pytest.mark.parametrize("given", CASES)
def test_lists(given: str, tmp_path: Path) -> None:
    check(rows("Lists")[given], CASES[given], tmp_path)
