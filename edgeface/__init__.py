"""edgeface: face recognition for Jetson-class boards.

    recognizer = edgeface.FaceRecognizer.open("kiosk.gallery")
    recognizer.enroll("ada", photo)
    for person in recognizer.recognize(frame):
        print(person.name, person.similarity, person.decision)

Importing this loads numpy and the native kernels only; runtimes and OpenCV come in when they are used.
"""

from edgeface import errors
from edgeface.align import align_faces
from edgeface.detect import Detector
from edgeface.embed import Embedder
from edgeface.gallery import Gallery, Person
from edgeface.liveness import LivenessDetector
from edgeface.recognizer import FaceRecognizer
from edgeface.runtime import Engine, load_engine
from edgeface.types import Decision, Faces, Liveness, Matches, Recognition, Verification

__version__ = "0.1.0"

__all__ = [
    "Decision",
    "Detector",
    "Embedder",
    "Engine",
    "FaceRecognizer",
    "Faces",
    "Gallery",
    "Liveness",
    "LivenessDetector",
    "Matches",
    "Person",
    "Recognition",
    "Verification",
    "align_faces",
    "errors",
    "load_engine",
]
