"""The smallest operator that can be compiled."""


def operator(namespace: str) -> str:
    """C++ of ``torch.ops.<namespace>.twice``."""
    return f"""
#include <torch/csrc/stable/library.h>
static int64_t twice(int64_t x) {{ return 2 * x; }}
STABLE_TORCH_LIBRARY({namespace}, m) {{ m.def("twice(int x) -> int"); }}
STABLE_TORCH_LIBRARY_IMPL({namespace}, CompositeExplicitAutograd, m) {{
  m.impl("twice", TORCH_BOX(&twice));
}}
"""
