"""Programs and generated C on the host: ExecuTorch's runtime with our kernels in it, and a shared library for ctypes."""
