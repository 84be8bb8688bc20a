"""The pod network through CNI: configurations, plugins, and what they made.

Source: the CNI specification, 0.3.1 to 1.0.0 (https://www.cni.dev/docs/spec/).
"""
