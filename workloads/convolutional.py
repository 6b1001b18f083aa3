"""Built-in convolutional networks: AlexNet, VGG-16, ResNet-50."""

from collections.abc import Callable

from workloads.image_model import Builder, ImageModel


def alexnet(name: str = "alexnet") -> ImageModel:
    """AlexNet in its single-column form, 224 x 224 (Krizhevsky, One weird trick, 2014; torchvision)."""
    b = Builder(3, 224, 224)
    b.conv("conv1", 64, 11, 4, 2, bias=True)
    b.pool("pool1", 3, 2)
    b.conv("conv2", 192, 5, 1, 2, bias=True)
    b.pool("pool2", 3, 2)
    for index, filters in ((3, 384), (4, 256), (5, 256)):
        b.conv(f"conv{index}", filters, 3, bias=True)
    b.pool("pool5", 3, 2)
    for index, (inputs, outputs) in enumerate(((b.channels * b.pixels, 4096), (4096, 4096), (4096, 1000)), start=6):
        b.linear(f"fc{index}", 1, inputs, outputs)
    return ImageModel(name=name, stages=tuple(b.stages), source="Krizhevsky, 2014 (arXiv 1404.5997)")


def vgg16(name: str = "vgg-16") -> ImageModel:
    """VGG-16 (configuration D), 224 x 224 (Simonyan and Zisserman, 2014)."""
    b = Builder(3, 224, 224)
    for block, (filters, repeats) in enumerate(((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)), start=1):
        for index in range(1, repeats + 1):
            b.conv(f"conv{block}_{index}", filters, 3, bias=True)
        b.pool(f"pool{block}", 2, 2)
    for index, (inputs, outputs) in enumerate(((512 * 49, 4096), (4096, 4096), (4096, 1000)), start=6):
        b.linear(f"fc{index}", 1, inputs, outputs)
    return ImageModel(
        name=name, stages=tuple(b.stages), source="Simonyan and Zisserman, 2014 (arXiv 1409.1556), table 1, D"
    )


def resnet50(name: str = "resnet-50") -> ImageModel:
    """ResNet-50 v1.5 (stride in the 3 x 3 convolution), 224 x 224 (He et al., 2015, table 1; torchvision)."""
    b = Builder(3, 224, 224)
    b.conv("conv1", 64, 7, 2, 3, norm=True)
    b.pool("pool1", 3, 2, 1)
    for stage, (width, blocks, stride) in enumerate(((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)), start=2):
        for block in range(blocks):
            label, step = f"conv{stage}_{block + 1}", stride if block == 0 else 1
            inputs = (b.channels, b.height, b.width)
            if block == 0:
                b.conv(f"{label}.downsample", 4 * width, 1, step, 0, norm=True)
                b.channels, b.height, b.width = inputs
            b.conv(f"{label}.a", width, 1, 1, 0, norm=True)
            b.conv(f"{label}.b", width, 3, step, 1, norm=True)
            b.conv(f"{label}.c", 4 * width, 1, 1, 0, norm=True)
            b.elementwise(f"{label}.add", b.channels * b.pixels, inputs=2)
    b.pool("average_pool", 7, 7)
    b.linear("fc", 1, 2048, 1000)
    return ImageModel(name=name, stages=tuple(b.stages), source="He et al., 2015 (arXiv 1512.03385), table 1")


CONVOLUTIONAL: dict[str, Callable[[str], ImageModel]] = {"alexnet": alexnet, "vgg-16": vgg16, "resnet-50": resnet50}
