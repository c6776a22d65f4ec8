"""An exported folder: what its manifest says, its layout, its graphs' description."""
