"""The renderer of synthetic people: training data, built-in portraits and test footage with exact ground truth.

Needs the extra `render` (moderngl, scipy) and the ICT-FaceKit face model. Nothing is imported here, so that the
package stays quick to import.
"""
