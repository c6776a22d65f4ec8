"""What an exported folder stores, read with onnx itself."""

import numpy as np
import onnx


def tensors(folder):
    """Every initializer of every graph, read with onnx itself."""
    return {
        file.name: {
            tensor.name: onnx.numpy_helper.to_array(tensor)
            for tensor in onnx.load(file).graph.initializer
        }
        for file in sorted(folder.glob("*.onnx"))
    }


def neighbour_sums(weights):
    """Magnitudes of the sums of rows 0 and 1, 2 and 3 and so on."""
    even = len(weights) // 2 * 2
    return np.abs(weights[0:even:2].astype(np.float64) + weights[1:even:2])
