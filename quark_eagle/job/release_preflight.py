"""What a release would refuse after everything else was done: names, keys, certificates and what makes a bundle."""

from __future__ import annotations

from pathlib import Path

from quark_eagle.errors import UsageError
from quark_eagle.job.places import expanded
from quark_eagle.job.recipe import Recipe, Release
from quark_eagle.job.told import told


def release_problems(recipe: Recipe, base: Path) -> list[str]:
    """All of it; the private key is unlocked for that, and nothing is signed."""
    problems: list[str] = []
    if recipe.release is None:
        return problems
    with told(problems):
        from quark_eagle.release.extra import require_extra

        require_extra()  # what follows imports it
    if not problems:
        _look_at_names(recipe.release, problems)
        _look_at_keys(recipe.release, base, problems)
    return problems


def _look_at_names(release: Release, problems: list[str]) -> None:
    from quark_eagle.release.bundle import Naming
    from quark_eagle.release.origin import require_license

    named = {
        "name": Naming(name=release.name),
        "repo_id": Naming(repo_id=release.repo_id),
        "base_model": Naming(base_model=release.base_model),
        "target_name": Naming(target=release.target_name),
    }
    for key, naming in named.items():
        with told(problems, f"[release] {key}", f"--{key.replace('_', '-')}"):
            naming.require_sound()
    if release.license is not None:
        with told(problems, "[release] license", "--license"):
            require_license(release.license)


def _look_at_keys(release: Release, base: Path, problems: list[str]) -> None:
    from quark_eagle.release.signature import PrivateKey, password_in, public_half
    from quark_eagle.release.signature_check import CertificateChain, PublicKey, trusting

    chain = tuple(base / expanded(path) for path in release.certificate_chain)
    own = wanted = None
    if release.signing_key is not None:
        certificate = release.signing_certificate
        signer = PrivateKey(
            path=base / expanded(release.signing_key),
            password=None if release.signing_password_env is None else password_in(release.signing_password_env),
            certificate=None if certificate is None else base / expanded(certificate),
            chain=chain,
        )
        with told(problems, "[release] signing_key"):
            if signer.password is not None:
                signer.password()  # that the variable is set is told of a key without a password too
            own = public_half(signer)
    if chain:
        with told(problems, "[release] certificate_chain"):
            trusting(CertificateChain(paths=chain))
    if release.public_key is not None:
        path = base / expanded(release.public_key)
        with told(problems, "[release] public_key"):
            trusting(PublicKey(path=path))
            wanted = path
    if own is not None and wanted is not None:
        with told(problems, "[release] public_key"):
            _require_its_half(own, wanted)


def _require_its_half(own: bytes, path: Path) -> None:
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    if load_pem_public_key(own) != load_pem_public_key(path.read_bytes()):
        raise UsageError(
            f"{path}: is not the public half of signing_key, so the bundle would be refused. "
            "`openssl ec -in KEY -pubout` prints it."
        )
