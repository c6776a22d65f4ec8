"""Export: trace on the meta device, bind the checkpoint's weights, write the folder."""
