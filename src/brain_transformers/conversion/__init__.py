"""From the authors' files to models of this package: safe reading, converters of the families, fingerprints."""
