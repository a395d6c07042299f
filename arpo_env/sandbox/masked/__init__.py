"""What a sandbox shows in place of a package that holds answers (see ``masking``): nothing, not even an import."""

# Bound over the package's directory, this file is imported under the package's name. (An empty directory would be
# importable: Python takes it for a namespace package.)
if __name__ != "arpo_env.sandbox.masked":
    raise ModuleNotFoundError(f"No module named {__name__!r}", name=__name__)
