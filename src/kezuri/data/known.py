"""The named data sets themselves: files, hashes, class names."""

from pathlib import Path

from kezuri.data.catalog import Bundled, CifarFiles, IdxFiles, Known, PlanesFile, named
from kezuri.data.sources import Download

_CLOTHES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
_DIGITS = tuple("0123456789")
_CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_CIFAR100_NAMES = """
    apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel
    can castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur
    dolphin elephant flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion
    lizard lobster man maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree
    pear pickup_truck pine_tree plain plate poppy porcupine possum rabbit raccoon ray road rocket rose sea
    seal shark shrew skunk skyscraper snail snake spider squirrel streetcar sunflower sweet_pepper table
    tank telephone television tiger tractor train trout tulip turtle wardrobe whale willow_tree wolf woman
    worm
"""
_CIFAR100 = tuple(_CIFAR100_NAMES.split())


def _idx_downloads(files: IdxFiles, *sites: str) -> tuple[Download, ...]:
    return tuple(
        Download(f"{name}.gz", tuple(f"{site}/{name}.gz" for site in sites), sha256, unpacked=True)
        for name, sha256 in zip(files.names, files.sha256, strict=True)
    )


def _mnist() -> Known:
    """Y. LeCun, C. Cortes and C. Burges, "The MNIST database of handwritten digits", 1998."""
    files = IdxFiles(
        (
            "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
            "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
            "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
            "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
        )
    )
    sites = (
        "https://ossci-datasets.s3.amazonaws.com/mnist",
        "https://storage.googleapis.com/cvdf-datasets/mnist",
    )
    return Known(
        title="MNIST",
        classes=_DIGITS,
        mean=(0.1307,),
        std=(0.3081,),
        forms=(files,),
        folders=("mnist", "MNIST/raw", ""),
        downloads=_idx_downloads(files, *sites),
    )


def _fashion_mnist() -> Known:
    """H. Xiao, K. Rasul and R. Vollgraf, "Fashion-MNIST", 2017 (MIT licence, Zalando Research)."""
    files = IdxFiles(
        (
            "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
            "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
            "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
            "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
        )
    )
    sites = (
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com",
        "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion",
    )
    return Known(
        title="Fashion-MNIST",
        classes=_CLOTHES,
        mean=(0.2860,),
        std=(0.3530,),
        forms=(files,),
        folders=("fashion-mnist", "FashionMNIST/raw", ""),
        downloads=_idx_downloads(files, *sites),
    )


def _cifar10() -> Known:
    """A. Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009."""
    python = CifarFiles(
        places=("cifar-10-batches-py", "cifar-10-python.tar.gz"),
        train={
            "data_batch_1": "c99cafc152244af753f735de768cd75f",
            "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
            "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
            "data_batch_4": "634d18415352ddfa80567beed471001a",
            "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
        },
        test={"test_batch": "40351d587109b95175f43aff81a1287e"},
        labels="labels",
    )
    binary = CifarFiles(
        places=("cifar-10-batches-bin", "cifar-10-binary.tar.gz"),
        train={f"data_batch_{number}.bin": None for number in range(1, 6)},
        test={"test_batch.bin": None},
        labels=None,
    )
    planes = PlanesFile(
        "cifar10.npz",
        images="032deeb18a30e41b8c9abdb44be5e448e3dacbf8ebab8b9a3053e7576425660c",
        labels="3edb456524d5918aefded81f5aef7c32efab2a788211df998a4eb0c8957baa1f",
    )
    return Known(
        title="CIFAR-10",
        classes=_CIFAR10,
        mean=(0.4914, 0.4822, 0.4465),
        std=(0.2470, 0.2435, 0.2616),
        forms=(python, binary, planes),
        folders=("cifar10", ""),
        downloads=(
            Download(
                "cifar-10-python.tar.gz",
                ("https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",),
                "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce",
            ),
        ),
    )


def _cifar100() -> Known:
    """A. Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009."""
    python = CifarFiles(
        places=("cifar-100-python", "cifar-100-python.tar.gz"),
        train={"train": "16019d7e3df5f24257cddd939b257f8d"},
        test={"test": "f0ef6b0ae62326f3e7ffdfab6717acfc"},
        labels="fine_labels",
        each=(500, 100),
    )
    binary = CifarFiles(
        places=("cifar-100-binary", "cifar-100-binary.tar.gz"),
        train={"train.bin": "6172c7755cfe09b2fe270c85cebc1b15"},
        test={"test.bin": "4499cfba6c016c1be1438163640a0898"},
        labels=None,
        label_bytes=2,
        each=(500, 100),
    )
    planes = PlanesFile(
        "cifar100.npz",
        images="cc0ff873b2312e0450b0930b9f1c0d6c2ac59cd01f0398542efdc6f43b4db807",
        labels="2e99a56dcccea8fdd46e93eb130db9aef0a8fe1736f4900f19c082dcab4f8106",
    )
    return Known(
        title="CIFAR-100",
        classes=_CIFAR100,
        mean=(0.5071, 0.4865, 0.4409),
        std=(0.2673, 0.2564, 0.2762),
        forms=(python, binary, planes),
        folders=("cifar100", ""),
        downloads=(
            Download(
                "cifar-100-python.tar.gz",
                ("https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",),
                "85cd44d02ba6437773c5bbd22e183051d648de2e7d6b014e1ef29b855ba677a7",
            ),
        ),
    )


def _fashion_mini() -> Known:
    """12,000 images of Fashion-MNIST: the first 1,000 training and 200 test images of each class."""
    return Known(
        title="12,000 images of Fashion-MNIST",
        classes=_CLOTHES,
        mean=(0.2860,),
        std=(0.3530,),
        forms=(
            Bundled("fashion_mini.npz", "d5b91c929ef64cdf3fac6a13820932f698037ef77030a9584f3d6499a1ccee00"),
        ),
        home=Path(__file__).with_name("bundled"),
    )


named.register("fashion-mini")(_fashion_mini())
named.register("mnist")(_mnist())
named.register("fashion-mnist")(_fashion_mnist())
named.register("cifar10")(_cifar10())
named.register("cifar100")(_cifar100())
