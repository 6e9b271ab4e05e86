"""From folders of imagery to packs: catalog, raster, pack, split."""
