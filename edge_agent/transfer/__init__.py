"""How manifests and objects come to a device, block by block, and become installed variants."""
